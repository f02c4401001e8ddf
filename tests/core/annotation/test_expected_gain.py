"""The gain that the next slice should bring, by closed forms and by curves of which the law is known."""

import numpy as np
import pytest

from lib.core.annotation.expected_gain import ExpectedGain, expected_gain

# Scores that approach 0.9 as 1/n.
CURVE = [(n, 0.9 - 1.2 / n) for n in (3, 4, 6, 9)]


def of(history: list[tuple[int, float]]) -> ExpectedGain:
    gain = expected_gain(history)
    assert gain is not None
    return gain


def test_it_extrapolates_the_scores() -> None:
    # Worse scores with the same numbers of slices don't count.
    assert of([*CURVE, (6, 0.1), (9, 0.2)]).mean == pytest.approx(1.2 / 9 - 1.2 / 10)
    # A lower score with more slices counts as no change.
    assert of([(3, 0.8), (9, 0.5)]).mean == pytest.approx(0, abs=1e-12)
    # A training that has just begun with one more slice doesn't look like a failure.
    assert of([*CURVE, (10, 0.3)]).mean == pytest.approx(of([*CURVE, (10, 0.9 - 1.2 / 9)]).mean)
    assert of([*CURVE, (10, 0.3)]).mean > 0
    # The gain is that of the slice after the latest number of slices, even if there were more before.
    assert of([*CURVE, (4, 0.6)]).mean == pytest.approx(1.2 / 4 - 1.2 / 5)


def test_no_iou_above_1_is_expected() -> None:
    gain = of([(3, 0.9), (4, 0.99)])
    assert (gain.mean, gain.high) == pytest.approx((0.01, 0.01))
    assert gain.low == 0


def test_too_few_scores_expect_nothing() -> None:
    assert expected_gain([(3, 0.8), (3, 0.9)]) is None
    assert expected_gain([]) is None


def test_the_interval_narrows_while_the_scores_follow_the_curve() -> None:
    """Without any deviation, the assumed one of 0.01 counts twice among n - 2 + 2 degrees of freedom."""
    for n, quantile in ((2, 2.9200), (3, 2.3534), (4, 2.1318)):
        gain = of(CURVE[:n])
        assert gain.high - gain.mean == pytest.approx(quantile * 0.01 * (2 / n) ** 0.5, rel=1e-4)
        assert gain.low == pytest.approx(max(0, 2 * gain.mean - gain.high), rel=1e-6)


@pytest.mark.parametrize("deviation", [0.005, 0.01, 0.03, 0.05])
def test_most_gains_are_within_the_interval(deviation: float) -> None:
    """Of curves with noise; where the noise is small, the interval is too wide rather than too narrow."""
    rng = np.random.default_rng(0)
    within = []
    for _ in range(2000):
        counts = np.arange(3, rng.integers(6, 16))
        scores = 0.9 - rng.uniform(0.2, 1.2) / counts + rng.normal(0, deviation, len(counts))
        gain = of(list(zip(counts[:-1].tolist(), scores[:-1].tolist(), strict=True)))
        within.append(gain.low <= max(0.0, scores[-1] - scores[:-1].max()) <= gain.high)
    assert 0.8 < np.mean(within) < 0.99
