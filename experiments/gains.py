"""Whether the gain that the server expects of the next slice follows."""

import statistics
from collections.abc import Sequence
from typing import TypedDict

from scipy.stats import spearmanr

from lib.core.annotation.expected_gain import ExpectedGain, expected_gain

Pair = tuple[ExpectedGain, float]
"""The gain in IoU that was expected of a slice, and the one that followed."""


class GainCheck(TypedDict):
    """How expected gains compare with those that followed.

    ``choices``: their number. ``spearman``: Spearman's rank correlation; None where either gain is always the same.
    ``expected`` and ``followed``: mean gains in IoU. ``within``: the share of gains within the expected interval.
    """

    choices: int
    spearman: float | None
    expected: float
    followed: float
    within: float


def gains(slices: Sequence[int], iou: Sequence[float]) -> list[Pair]:
    """Return the expected gain of each slice and the gain that followed, for each choice that has an expectation.

    The server expects from the scores so far alone, whichever slice it suggests, so the curve is all that is needed.
    ``expected_gain`` extrapolates the best IoU with at most so many slices, and the gain that followed is that of the
    same best IoU. Here the IoU is on the whole volume; the server's is on a few held-out slices and varies more.

    Args:
        slices: numbers of annotated slices.
        iou: IoU with each of them.
    """
    pairs = []
    for known in range(1, len(slices)):
        expected = expected_gain(list(zip(slices[:known], iou[:known], strict=True)))
        if expected is not None:
            pairs.append((expected, max(0.0, iou[known] - max(iou[:known]))))
    return pairs


def check_gains(pairs: Sequence[Pair]) -> GainCheck | None:
    """Compare expected gains with those that followed; None if there are none."""
    if not pairs:
        return None
    expected, followed = [gain.mean for gain, _ in pairs], [gain for _, gain in pairs]
    varies = len(set(expected)) > 1 and len(set(followed)) > 1
    return {
        "choices": len(pairs),
        "spearman": round(float(spearmanr(expected, followed).statistic), 3) if varies else None,
        "expected": round(statistics.fmean(expected), 4),
        "followed": round(statistics.fmean(followed), 4),
        "within": round(statistics.fmean(gain.low <= actual <= gain.high for gain, actual in pairs), 3),
    }
