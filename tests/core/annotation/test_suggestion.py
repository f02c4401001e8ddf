"""Which slices are chosen, against plain loops and small cases that a person can check."""

import numpy as np
import pytest

from lib.core.annotation.slices import AnnotatedSlice
from lib.core.annotation.suggestion import (
    PRIOR,
    Evidence,
    best_slices,
    evenly_spaced,
    mean_by_class,
    newly_reached,
    suggest_slices,
    worth_by_class,
)
from lib.core.labels import LabelScheme

SCHEME = LabelScheme(("one", "two"), "outside")
SHAPE = (7, 6, 5)


def evidence() -> Evidence:
    generator = np.random.default_rng(0)
    annotation = np.zeros(SHAPE, np.uint8)
    annotation[:, :, 2] = 3
    labels = generator.integers(0, 3, SHAPE).astype(np.uint8)
    return Evidence(SCHEME, annotation, labels, generator.integers(0, 256, SHAPE).astype(np.uint8))


def test_each_predicted_class_has_the_same_share_of_the_worth() -> None:
    known = evidence()
    worth = worth_by_class(known)
    expected = np.zeros(SHAPE)
    for value in range(3):
        voxels = {
            place: 1.0 if value else max(1, int(known.entropy[place])) / 255
            for place in np.ndindex(SHAPE)
            if known.labels[place] == value and known.annotation[place] == 0
        }
        for place, own in voxels.items():
            expected[place] = own / (sum(voxels.values()) + PRIOR * np.prod(SHAPE)) / 3
    np.testing.assert_allclose(worth, expected, rtol=1e-5)
    assert worth.sum() == pytest.approx(1, abs=2e-3)


def test_a_class_with_few_predicted_voxels_counts_for_less() -> None:
    labels = np.zeros((50, 50, 50), np.uint8)
    labels[0, 0, 0] = 1
    worth = worth_by_class(Evidence(SCHEME, np.zeros_like(labels), labels, np.full_like(labels, 255)))
    assert worth[0, 0, 0] == pytest.approx(1 / (1 + 25) / 3)
    assert worth.sum() < 0.36


def test_background_counts_where_it_is_uncertain() -> None:
    entropy = np.zeros((30, 30, 30), np.uint8)
    nothing = Evidence(SCHEME, np.zeros_like(entropy), np.zeros_like(entropy), entropy)
    # A model that is certain of background everywhere gives all slices far enough from the border the same score.
    scores = newly_reached(worth_by_class(nothing), [])
    assert scores[0][10] == pytest.approx(scores[2][20])
    assert scores[0][10] > 0
    entropy[:, 7] = 200
    assert best_slices(worth_by_class(nothing), [], 1)[0][0] == AnnotatedSlice(1, 7)


def closeness(distance: int, length: int) -> float:
    return float(np.exp(-((distance / max(1.0, 0.05 * length)) ** 2) / 2))


def test_scores_count_the_gain_in_nearness() -> None:
    """Computed voxel by voxel. Stored nearness has 256 values."""
    shape = (40, 9, 5)
    worth = np.random.default_rng(0).random(shape, dtype=np.float32)
    annotated = [AnnotatedSlice(0, 11), AnnotatedSlice(0, 30), AnnotatedSlice(2, 1)]
    scores = newly_reached(worth, annotated)
    for axis in range(3):
        for index in range(shape[axis]):
            expected = 0.0
            for place in np.ndindex(shape):
                reached = max(closeness(place[other] - at, shape[other]) for other, at in annotated)
                expected += worth[place] * max(0.0, closeness(place[axis] - index, shape[axis]) - reached)
            assert scores[axis][index] == pytest.approx(expected, abs=0.004 * worth.sum())
    assert scores[0][11] == scores[2][1] == 0
    assert max(scores[1]) > 10


def test_nothing_is_suggested_when_everything_is_labelled() -> None:
    labels = np.zeros(SHAPE, np.uint8)
    known = Evidence(SCHEME, np.full(SHAPE, 3, np.uint8), labels, labels)
    assert suggest_slices(SHAPE, [], 3, known) == []


def test_of_equally_good_slices_the_middle_one_is_chosen() -> None:
    entropy = np.zeros((60, 50, 40), np.uint8)
    nothing = Evidence(SCHEME, entropy, entropy, entropy)
    for suggestion in suggest_slices(entropy.shape, [], 3, nothing):
        length = entropy.shape[suggestion.place.axis]
        assert abs(suggestion.place.index - length / 2) <= 1


def test_a_stray_voxel_does_not_dominate_the_uncertainty() -> None:
    labels = np.zeros((60, 50, 40), np.uint8)
    entropy = np.full(labels.shape, 5, np.uint8)
    sure = mean_by_class(labels, entropy)
    assert sure == pytest.approx(5 / 255, rel=1e-3)
    labels[0, 0, 0], entropy[0, 0, 0] = 1, 255
    assert mean_by_class(labels, entropy) < 1.6 * sure
    labels[:10], entropy[:10] = 1, 105
    assert mean_by_class(labels, entropy) == pytest.approx(55 / 255, rel=2e-3)


def test_a_rare_class_counts_as_much_as_the_background() -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[5, 8:12, 8:12] = 1
    entropy = np.full(labels.shape, 20, np.uint8)
    entropy[5, 8:12, 8:12] = 200
    entropy[15] = 40
    worth = worth_by_class(Evidence(SCHEME, np.zeros_like(labels), labels, entropy))
    # By the mean over all voxels, slice 15 would come first.
    assert entropy[15].mean() > entropy[5].mean()
    assert newly_reached(worth, [])[0].argmax() == 5


def test_a_slice_across_another_axis_covers_voxels_too() -> None:
    worth = np.zeros((30, 30, 30), np.float32)
    worth[[8, 16, 24], 5:25, 15] = 1
    assert best_slices(worth, [], 1) == [(AnnotatedSlice(2, 15), pytest.approx(60))]
    assert best_slices(worth, [AnnotatedSlice(0, 8)], 1) == [(AnnotatedSlice(2, 15), pytest.approx(40))]
    assert best_slices(worth, [AnnotatedSlice(2, 15)], 1) == []


def test_suggested_slices_lie_across_all_axes_and_apart() -> None:
    places = [place for place, _ in best_slices(np.ones((60, 50, 40), np.float32), [], 6)]
    assert [sorted(place.axis for place in part) for part in (places[:3], places[3:])] == [[0, 1, 2], [0, 1, 2]]
    for axis in range(3):
        first, second = (place.index for place in places if place.axis == axis)
        assert abs(first - second) > 10


def test_the_next_slice_lies_across_the_axis_with_the_fewest_slices() -> None:
    worth = np.full((30, 30, 30), 1e-4, np.float32)
    worth[15, 5:25, 5:25] = 1
    worth[5:25, 15, 15] = 1
    assert best_slices(worth, [], 1)[0][0] == AnnotatedSlice(0, 15)
    axes = [place.axis for place, _ in best_slices(worth, [AnnotatedSlice(0, 2), AnnotatedSlice(2, 2)], 4)]
    # Each axis comes once before any comes twice, and the one without annotated slices comes first.
    assert axes[0] == axes[3] == 1
    assert axes[1:3] == [0, 2]


def test_only_new_slices_are_suggested_until_all_voxels_lie_in_slices() -> None:
    worth = np.full((4, 3, 2), 1e-9, np.float32)
    annotated = [AnnotatedSlice(0, 1), AnnotatedSlice(2, 0)]
    places = [place for place, score in best_slices(worth, annotated, 99) if score > 0]
    assert len(places) == len(set(places) - set(annotated)) == len(best_slices(worth, annotated, 99))
    assert not best_slices(worth, [*annotated, *places], 1)
    in_slices = np.zeros(worth.shape, bool)
    for axis, index in (*annotated, *places):
        np.moveaxis(in_slices, axis, 0)[index] = True
    assert in_slices.all()


@pytest.mark.parametrize("thin", [0, 1, 2])
def test_strips_are_suggested_when_all_other_slices_are_annotated(thin: int) -> None:
    shape = [40, 40, 40]
    shape[thin] = 3
    worth = np.random.default_rng(0).random(shape).astype(np.float32)
    for places in (evenly_spaced([], shape, 4), [place for place, _ in best_slices(worth, [], 4)]):
        assert {place.axis for place in places[:3]} == {thin}
    assert evenly_spaced([], shape, 4)[3].axis != thin
    # By then everything lies in an annotated slice.
    assert len(best_slices(worth, [], 4)) == 3


def test_scores_are_fractions_of_the_total_worth() -> None:
    """Even if only one of three classes is predicted."""
    worth = np.zeros((30, 30, 30), np.uint8)
    worth[4] = worth[20, :, :10] = 255
    labels = np.zeros_like(worth)
    first, second = suggest_slices(worth.shape, [], 2, Evidence(SCHEME, np.zeros_like(worth), labels, worth))
    assert first.place == AnnotatedSlice(0, 4)
    # Each of the other voxels is worth 1/255.
    assert first.score == pytest.approx(900 / (1200 + 25_800 / 255), rel=0.05)
    assert f"{first.score:.1%} of all objects and uncertainty" in first.why
    assert second.score is not None
    assert 0 < second.score < first.score


def test_without_a_model_slices_halve_the_widest_gaps_of_the_axes_in_turn() -> None:
    places = evenly_spaced([], (9, 9, 9), 9)
    assert [place.axis for place in places] == [0, 1, 2] * 3
    assert [place.index for place in places if place.axis == 0] == [4, 6, 2]
    first = [AnnotatedSlice(0, 2), AnnotatedSlice(1, 0), AnnotatedSlice(1, 8)]
    assert evenly_spaced(first, (9, 9, 9), 2) == [AnnotatedSlice(2, 4), AnnotatedSlice(0, 5)]
    assert len(evenly_spaced([], (2, 1, 1), 99)) == 4


def test_when_all_slices_are_covered_those_with_most_unpainted_worth_are_suggested() -> None:
    """Every slice across x and z counts as annotated, and a tubule lies in their unpainted part."""
    shape = (40, 40, 12)
    annotation, labels = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    annotation[:25] = 3
    labels[30:38, 20:23] = 1
    labels[36, 21:31] = 1
    known = Evidence(SCHEME, annotation, labels, np.zeros(shape, np.uint8))
    annotated = [AnnotatedSlice(0, index) for index in range(40)] + [AnnotatedSlice(2, index) for index in range(12)]
    assert best_slices(worth_by_class(known), annotated, 3) == []
    found = suggest_slices(shape, annotated, 3, known)
    assert [suggestion.place for suggestion in found[:2]] == [AnnotatedSlice(1, 22), AnnotatedSlice(1, 21)]
    worth = worth_by_class(known)
    assert found[0].score == pytest.approx(worth[:, 22].sum() / worth.sum())
    assert found[0].why.startswith("its unpainted voxels hold ")
    # If more are wanted than there are, each slice with unpainted voxels is suggested once.
    assert {suggestion.place for suggestion in suggest_slices(shape, annotated, 99, known)} == {
        AnnotatedSlice(1, index) for index in range(40)
    }
    assert suggest_slices(shape, annotated, 3, Evidence(SCHEME, np.full(shape, 3, np.uint8), labels, labels)) == []


def test_large_volumes_are_subsampled(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (60, 48, 24)
    labels = np.zeros(shape, np.uint8)
    labels[12:20, 30:40, 5:15] = 1
    labels[40:50, 8:14, 8:20] = 2
    annotated = [AnnotatedSlice(0, 15), AnnotatedSlice(1, 35), AnnotatedSlice(2, 10)]
    annotation = np.zeros(shape, np.uint8)
    annotation[15], annotation[:, 35], annotation[:, :, 10] = 3, 3, 3
    known = Evidence(SCHEME, annotation, labels, np.full(shape, 30, np.uint8))
    exact = suggest_slices(shape, annotated, 3, known)
    # A fourth of the voxels: blocks of 2 × 2 × 1.
    monkeypatch.setattr("lib.core.annotation.suggestion.MOST_VOXELS", labels.size // 4)
    coarse = suggest_slices(shape, annotated, 3, known)
    assert [one.place.axis for one in coarse] == [one.place.axis for one in exact]
    for one, other in zip(coarse, exact, strict=True):
        assert abs(one.place.index - other.place.index) <= 2
        assert one.score == pytest.approx(other.score, rel=0.15)
    assert not {one.place for one in coarse} & set(annotated)
