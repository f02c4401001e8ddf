"""Scores of networks, and their comparison, where the probabilities of a bootstrap are known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from lib.core.labels import LabelScheme
from lib.core.metrics import confusion, iou_per_class
from lib.core.training.score import UNITS_ALONG_AXIS, Score

SCHEME = LabelScheme(("cell", "wall"), "outside")


def score_of(wrong: list[int]) -> Score:
    """A score on units of 100 voxels of each class, of which some of the cell's are taken for background."""
    return Score(np.array([[[100, 0, 0], [n, 100 - n, 0], [0, 0, 100]] for n in wrong]), SCHEME)


def test_counts_are_those_of_all_voxels() -> None:
    generator = np.random.default_rng(0)
    parts = []
    for shape in ((1, 30, 17), (9, 1, 2), (1, 1, 1)):
        place = np.nonzero(np.ones(shape))
        predicted, annotated = (generator.integers(0, top, len(place[0])).astype(np.uint8) for top in (3, 4))
        parts.append((place, predicted, annotated))
    score = Score.of(parts, SCHEME)
    expected = sum(confusion(predicted, annotated, SCHEME) for _, predicted, annotated in parts)
    np.testing.assert_array_equal(score.counts.sum(axis=0), expected)
    assert score.per_class == iou_per_class(np.asarray(expected), SCHEME)
    assert score.mean == pytest.approx(np.mean(list(score.per_class.values())))


def test_units_are_parts_of_a_slice() -> None:
    """The voxels of a unit lie in the same quarter of the slice along each of its axes."""
    place = np.nonzero(np.ones((1, 40, 24)))
    quarter = UNITS_ALONG_AXIS * (place[1] // 10) + place[2] // 6
    found = set()
    for unit in range(UNITS_ALONG_AXIS**2):
        only_here = np.where(quarter == unit, 1, 3).astype(np.uint8)
        score = Score.of([(place, np.zeros(len(quarter), np.uint8), only_here)], SCHEME)
        (with_cells,) = np.flatnonzero(score.counts[:, 1].sum(axis=1))
        assert score.counts[with_cells, 1, 0] == 60
        found.add(int(with_cells))
    assert len(found) == UNITS_ALONG_AXIS**2


@pytest.mark.parametrize(
    ("worse", "of", "credibly"),
    [
        # A resampling of n units has none of k with probability (1 - k/n)^n.
        (2, 10, False),  # 0.893 have some
        (3, 10, True),  # 0.972
        (1, 3, False),  # 0.704
        (3, 3, True),
        (0, 5, False),
        (1, 1, True),
    ],
)
def test_a_network_that_is_worse_in_enough_units_is_credibly_worse(worse: int, of: int, credibly: bool) -> None:
    good, poor = score_of([10] * of), score_of([20] * worse + [10] * (of - worse))
    assert poor.is_credibly_worse_than(good) is credibly
    assert not good.is_credibly_worse_than(poor)


def test_what_is_difficult_for_both_does_not_hide_a_difference() -> None:
    """The IoU of units ranges from 0.1 to 1; one network always finds two cells in a hundred fewer."""
    difficulty = np.linspace(0, 88, 12).astype(int).tolist()
    assert score_of([n + 2 for n in difficulty]).is_credibly_worse_than(score_of(difficulty))


def test_gains_and_losses_that_cancel_are_not_credible() -> None:
    assert not score_of([10, 30] * 8).is_credibly_worse_than(score_of([29, 10] * 8))


def test_a_stray_voxel_of_a_rare_class_does_not_hide_a_difference() -> None:
    """Of 16 units one has walls, so that a third of the resamplings have none."""

    def score(missed: int, stray: int) -> Score:
        counts = np.array([[[100, 0, 0], [missed, 100 - missed, 0], [0, 0, 0]]] * 16)
        counts[3, 2, 2] = 50
        counts[0, 0, 2] = stray
        return Score(counts, SCHEME)

    stray, poor = score(10, 1), score(30, 0)
    assert stray.mean > poor.mean + 0.05
    assert poor.is_credibly_worse_than(stray)
    assert not stray.is_credibly_worse_than(poor)


def test_resamplings_have_the_mean_iou_of_a_plain_loop() -> None:
    """On six units, some without one class or both."""
    generator = np.random.default_rng(0)

    def mean(times: NDArray[np.int64], score: Score) -> float:
        total = sum(n * unit for n, unit in zip(times, score.counts, strict=True))
        iou = iou_per_class(np.asarray(total), SCHEME)
        return float(
            np.mean([iou[name] or 0 for value, name in ((1, "cell"), (2, "wall")) if total[value].any()] or [0])
        )

    verdicts = []
    for right in (0.6, 0.7, 0.8):
        annotated = generator.integers(0, 30, (6, 3)) * generator.integers(0, 2, (6, 3))
        own, other = (
            Score(
                np.array(
                    [[generator.multinomial(n, row) for n, row in zip(unit, rows, strict=True)] for unit in annotated]
                ),
                SCHEME,
            )
            for rows in (
                np.full((3, 3), 0.2) + 0.4 * np.eye(3),
                np.full((3, 3), (1 - right) / 2) + (1.5 * right - 0.5) * np.eye(3),
            )
        )
        drawn = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), size=1000)
        verdicts.append(sum(mean(times, own) < mean(times, other) for times in drawn) >= 950)
        assert own.is_credibly_worse_than(other) is verdicts[-1]
    assert set(verdicts) == {True, False}


def test_without_voxels_nothing_is_worse() -> None:
    nothing = Score.of([], SCHEME)
    assert nothing.mean == 0
    assert not nothing.is_credibly_worse_than(nothing)


def test_the_interval_holds_what_it_promises() -> None:
    """Of scores on random units, about 95 % have the true IoU in their interval; few units give somewhat less."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        # Of a cell, 80 % are found on average, and all of the wall, so the mean IoU is 0.9.
        wrong = np.clip(generator.normal(20, 10, 40), 0, 100)
        low, high = score_of([round(number) for number in wrong]).interval() or (0, 0)
        held += low <= 0.9 <= high
    assert 0.88 <= held / 200 <= 0.99


def test_without_voxels_there_is_no_interval() -> None:
    assert Score.of([], SCHEME).interval() is None
