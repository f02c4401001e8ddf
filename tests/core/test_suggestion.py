"""Which slices are chosen, against plain loops and small cases that a person can check."""

import numpy as np
import pytest

from lib.core.annotations import AnnotatedSlice
from lib.core.labels import LabelScheme
from lib.core.suggestion import (
    FEW,
    Evidence,
    away_from,
    best_slices,
    evenly_spaced,
    expected_gain,
    mean_entropy,
)

SCHEME = LabelScheme(("one", "two"), "outside")
SHAPE = (7, 6, 5)


def evidence() -> Evidence:
    generator = np.random.default_rng(0)
    annotation = np.zeros(SHAPE, np.uint8)
    annotation[:, :, 2] = 3
    labels = generator.integers(0, 3, SHAPE).astype(np.uint8)
    return Evidence(SCHEME, annotation, labels, generator.integers(0, 256, SHAPE).astype(np.uint8))


def test_scores_are_means_over_unlabelled_voxels_by_class() -> None:
    known = evidence()
    scores = mean_entropy(known)
    for axis in range(3):
        for index in range(SHAPE[axis]):
            planes = [
                np.moveaxis(volume, axis, 0)[index].ravel().tolist()
                for volume in (known.annotation, known.labels, known.entropy)
            ]
            expected = 0.0
            for value in range(3):
                voxels = [
                    unsure / 255 for paint, label, unsure in zip(*planes, strict=True) if paint == 0 and label == value
                ]
                expected += sum(voxels) / (len(voxels) + FEW * len(planes[0])) / 3
            assert scores[axis][index] == pytest.approx(expected)
    assert scores[2][2] == 0


def test_a_rare_class_counts_as_much_as_the_background() -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[5, 8:12, 8:12] = 1
    entropy = np.full(labels.shape, 20, np.uint8)
    entropy[5, 8:12, 8:12] = 200
    entropy[15] = 40
    scores = mean_entropy(Evidence(SCHEME, np.zeros_like(labels), labels, entropy))
    # By the mean over all voxels, slice 15 would come first.
    assert entropy[15].mean() > entropy[5].mean()
    assert scores[0].argmax() == 5


def test_slices_like_annotated_ones_are_passed_over() -> None:
    away = away_from([AnnotatedSlice(0, 10), AnnotatedSlice(0, 90), AnnotatedSlice(2, 0)], (100, 40, 20))
    assert away[0][10] == away[0][90] == away[2][0] == 0
    assert (away[1] == 1).all()
    # By one reach, 5 slices of 100, one standard deviation of a Gaussian.
    assert away[0][15] == away[0][85] == pytest.approx(1 - np.exp(-0.5))
    assert away[0][50] > 0.999
    assert (np.diff(away[0][10:51]) >= 0).all()


def test_best_slices_are_far_from_each_other() -> None:
    scores = (np.full(100, 0.1), np.full(40, 0.1), np.full(20, 0.1))
    scores[0][[40, 41, 42]] = 0.9, 1.0, 0.9
    scores[2][7] = 0.5
    chosen = best_slices(scores, [AnnotatedSlice(1, 20)], 3)
    assert [place for place, _ in chosen[:2]] == [AnnotatedSlice(0, 41), AnnotatedSlice(2, 7)]
    assert chosen[0][1] == pytest.approx(1.0)
    assert chosen[2][0].axis != 0 or abs(chosen[2][0].index - 41) > 5


def test_slices_lie_across_all_axes() -> None:
    scores = (np.full(60, 0.9), np.full(60, 0.5), np.full(60, 0.1))
    places = [place for place, _ in best_slices(scores, [], 6)]
    assert sorted(place.axis for place in places) == [0, 0, 1, 1, 2, 2]
    # The best first, and of equal scores those farthest from each other.
    assert [place.axis for place in places] == [0, 0, 1, 1, 2, 2]
    assert abs(places[0].index - places[1].index) > 20


def test_no_slice_is_suggested_twice_nor_an_annotated_one() -> None:
    scores = tuple(np.zeros(n) for n in (4, 3, 2))
    annotated = [AnnotatedSlice(0, 1), AnnotatedSlice(2, 0)]
    places = [place for place, _ in best_slices(scores, annotated, 99)]
    assert len(set(places)) == 7
    assert not set(places) & set(annotated)
    assert best_slices(scores, [*annotated, *places], 1) == []


def test_without_a_model_slices_halve_the_widest_gaps_of_the_axes_in_turn() -> None:
    places = evenly_spaced([], (9, 9, 9), 9)
    assert [place.axis for place in places] == [0, 1, 2] * 3
    assert [place.index for place in places if place.axis == 0] == [4, 6, 2]
    first = [AnnotatedSlice(0, 2), AnnotatedSlice(1, 0), AnnotatedSlice(1, 8)]
    assert evenly_spaced(first, (9, 9, 9), 2) == [AnnotatedSlice(2, 4), AnnotatedSlice(0, 5)]
    assert len(evenly_spaced([], (2, 1, 1), 99)) == 4


def test_expected_gain_goes_on_as_the_scores_did() -> None:
    # Scores that near 0.9 as 1/n, and some that were worse for as many slices.
    history = [(n, 0.9 - 1.2 / n) for n in (3, 4, 6, 9)]
    assert expected_gain([*history, (6, 0.1), (9, 0.2)]) == pytest.approx(1.2 / 9 - 1.2 / 10)
    assert expected_gain([(3, 0.8), (9, 0.5)]) == 0
    assert expected_gain([(3, 0.8), (3, 0.9)]) is None
    assert expected_gain([]) is None
