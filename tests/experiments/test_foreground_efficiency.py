"""Foreground efficiency, by its formula and by trying all rates."""

import math

import numpy as np
import pytest

from experiments.annotators import DENSE
from experiments.comparison import check_gains_over_volumes, summarise
from experiments.foreground_efficiency import foreground_efficiency
from game_records import record

PARTS = [0.12, 0.2, 0.31, 0.33, 0.5, 0.7]


@pytest.mark.parametrize("efficiency", [-0.5, 0.8, 7.0, 30.0])
def test_the_rate_of_an_exponential_approach_is_found(efficiency: float) -> None:
    """From 0.3 at the first part to 0.9 for all of the foreground."""
    iou = [0.9 - 0.6 * math.exp(-efficiency * (part - 0.12)) for part in PARTS]
    assert foreground_efficiency(PARTS, iou, 0.9) == pytest.approx(efficiency, rel=1e-4)


def test_of_other_curves_it_is_the_rate_with_the_least_squares() -> None:
    iou = [0.42, 0.5, 0.47, 0.66, 0.81, 0.79]
    rates = np.arange(0, 20, 0.001)
    errors = sum((0.85 - 0.43 * np.exp(-rates * (x - 0.12)) - y) ** 2 for x, y in zip(PARTS, iou, strict=True))
    assert foreground_efficiency(PARTS, iou, 0.85) == pytest.approx(rates[int(np.argmin(errors))], abs=0.002)


def test_it_is_not_defined_where_nothing_is_left_to_rise_or_nothing_tells_how_fast() -> None:
    assert foreground_efficiency([0.1, 0.2], [0.8, 0.9], 0.8) is None
    assert foreground_efficiency([0.1, 0.1], [0.3, 0.5], 0.8) is None
    # Any rate that is high enough fits.
    assert foreground_efficiency([0.1, 0.5, 0.9], [0.3, 0.8, 0.8], 0.8) is None


def test_each_annotator_is_compared_with_the_median_of_dense_annotation() -> None:
    """Records label a tenth of the foreground by each slice."""
    records = [record(DENSE, seed, [last]) for seed, last in enumerate((0.5, 0.9, 1.0))]
    for seed, rate in enumerate((2.0, 5.0)):
        records.append(record("random", seed, [0.9 - 0.4 * math.exp(-rate * 0.1 * number) for number in range(5)]))
    records.append(record("clasp_pe", 0, [0.95] * 5))
    summary = summarise(records)
    assert summary["foreground_efficiency"] == {"random": [2.0, 5.0], "clasp_pe": [None]}
    assert summary["expected_gain"] is None
    assert check_gains_over_volumes({"": summary}) is None
