"""Whether the gain that is expected of a slice follows, by closed forms."""

import numpy as np
import pytest
from scipy import stats

from experiments.gains import check_gains, gains
from lib.core.annotation.expected_gain import ExpectedGain


def expected(*gains: float) -> list[ExpectedGain]:
    """Expectations with an interval of 0.1 on both sides."""
    return [ExpectedGain(gain, max(0.0, gain - 0.1), gain + 0.1) for gain in gains]


def test_where_the_model_of_the_gain_is_right_it_follows() -> None:
    """IoU = 0.9 - 0.6/n: from the second choice on, each gain is foreseen."""
    slices = [3, 4, 5, 6, 7]
    pairs = gains(slices, [0.9 - 0.6 / n for n in slices])
    exact = [0.6 / n - 0.6 / (n + 1) for n in (4, 5, 6)]
    assert [gain.mean for gain, _ in pairs] == pytest.approx(exact)
    assert [followed for _, followed in pairs] == pytest.approx(exact)
    check = check_gains(pairs)
    assert check is not None
    assert check["spearman"] == 1
    assert check["expected"] == check["followed"] == pytest.approx(np.mean(exact), abs=1e-4)


def test_a_choice_is_foreseen_by_what_came_before_it_and_its_gain_is_that_of_the_best() -> None:
    """With two points, 0.2 and 0.5 after 1 and 2 slices, the model is 0.8 - 0.6/n."""
    (gain, followed), (_, none), (_, last) = gains([1, 2, 3, 4, 5], [0.2, 0.5, 0.7, 0.6, 0.75])
    assert gain.mean == pytest.approx(0.6 / 2 - 0.6 / 3)
    assert (followed, none, last) == pytest.approx((0.2, 0, 0.05))


def test_the_correlation_is_of_ranks() -> None:
    rng = np.random.default_rng(0)
    means = rng.random(40)
    followed = means**5 + 0.2 * rng.random(40)
    check = check_gains(list(zip(expected(*means), followed, strict=True)))
    assert check is not None
    assert check["choices"] == 40
    ranks = [stats.rankdata(values) for values in (means, followed)]
    assert check["spearman"] == pytest.approx(1 - 6 * np.sum((ranks[0] - ranks[1]) ** 2) / (40 * (40**2 - 1)), abs=1e-3)
    assert check["spearman"] != pytest.approx(np.corrcoef(means, followed)[0, 1], abs=1e-2)


def test_no_correlation_where_nothing_follows() -> None:
    assert check_gains([]) is None
    check = check_gains(list(zip(expected(0.1, 0.2), [0.0, 0.0], strict=True)))
    assert check == {"choices": 2, "spearman": None, "expected": 0.15, "followed": 0.0, "within": 0.5}
