"""How much the next annotated slice should add, by extrapolating the scores so far."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

PRIOR_DEVIATION = 0.01
"""Standard deviation of best IoUs around the fitted curve that is assumed before any is known."""

PRIOR_WEIGHT = 2
"""How many deviations the assumption counts as."""

UPPER = 0.95
"""Quantile at the upper end of the interval. It isn't the one of 80 %, because the fit is uncertain, too."""


@dataclass(frozen=True)
class ExpectedGain:
    """A gain in validation IoU.

    Attributes:
        mean: the gain that is expected, at least 0.
        low: lower end of the interval that at least 80 % of the gains should be in, at least 0.
        high: its upper end; no IoU above 1 is expected.
    """

    mean: float
    low: float
    high: float


def expected_gain(history: Sequence[tuple[int, float]]) -> ExpectedGain | None:
    """Estimate how much validation IoU the next annotated slice adds, from the gains so far.

    The model is IoU = limit - c/n for n annotated slices, fitted by least squares to the best IoU with at most n
    slices. Taking the best keeps a training that has just begun from looking like a failure. The interval is that of
    Student's t with the deviation of these IoUs from the fit, to which an assumed deviation is added.

    Args:
        history: number of annotated slices and validation IoU, 0 … 1, of the models so far, the latest last.

    Returns:
        The gain of the slice after the latest; None with fewer than two different numbers of slices.
    """
    best: dict[int, float] = {}
    for slices, score in history:
        best[slices] = max(score, best.get(slices, 0.0))
    if len(best) < 2:
        return None
    counts = np.array(sorted(best))
    highest = np.maximum.accumulate([best[count] for count in counts])
    slope, limit = np.polyfit(1 / counts, highest, 1)
    squares = float(np.sum((highest - limit - slope / counts) ** 2))
    degrees = len(counts) - 2 + PRIOR_WEIGHT
    deviation = math.sqrt((squares + PRIOR_WEIGHT * PRIOR_DEVIATION**2) / degrees)
    latest, _ = history[-1]
    most = 1 - float(highest[-1])
    mean = min(max(0.0, -float(slope) * (1 / latest - 1 / (latest + 1))), most)
    reach = float(stdtrit(degrees, UPPER)) * deviation
    return ExpectedGain(mean, max(0.0, mean - reach), min(mean + reach, most))
