import itertools
import json

import numpy as np
import pytest

from lib.core.annotation.holding_out import split_slices
from lib.core.annotation.paint import Paint
from lib.core.annotation.slices import AnnotatedSlice, keep_slices
from lib.core.annotation.split import SliceSplit, apply_split
from painted import structures


def grid(images, per_axis):
    return {image: [AnnotatedSlice(axis, 10 * i + 3) for axis in range(3) for i in range(per_axis)] for image in images}


def held_out(split):
    return {(image, *place) for image, places in split.validation.items() for place in places}


def trained(split):
    return {(image, *place) for image, places in split.training.items() for place in places}


def all_places(slices):
    return {(image, *place) for image, places in slices.items() for place in places}


@pytest.mark.parametrize(("images", "per_axis"), list(itertools.product([1, 2, 5], [2, 3, 4, 20])))
@pytest.mark.parametrize("seed", range(3))
def test_each_slice_is_either_trained_on_or_held_out(images, per_axis, seed):
    slices = grid([f"image{i}" for i in range(images)], per_axis)
    split = split_slices(slices, seed)
    assert trained(split) | held_out(split) == all_places(slices)
    assert not trained(split) & held_out(split)
    assert len(held_out(split)) == max(1, round(0.15 * images * 3 * per_axis))
    for image, axis in itertools.product(slices, range(3)):
        assert any(place[:2] == (image, axis) for place in trained(split))
    assert split_slices({image: places[::-1] for image, places in reversed(slices.items())}, seed) == split


def test_split_spreads_over_images_and_axes():
    for seed in range(10):
        split = split_slices(grid("abc", 4), seed)
        assert len(held_out(split)) == 5
        assert {image for image, _, _ in held_out(split)} == set("abc")
        assert {axis for _, axis, _ in held_out(split)} == {0, 1, 2}
        assert len({place[:2] for place in held_out(split)}) == 5


def test_split_spares_axes_with_few_slices():
    slices = {"a": [AnnotatedSlice(0, 1), AnnotatedSlice(0, 2), *(AnnotatedSlice(2, i) for i in range(8))]}
    for seed in range(10):
        assert all(axis == 2 for _, axis, _ in held_out(split_slices(slices, seed)))


def test_seeds_split_differently():
    assert len({frozenset(held_out(split_slices(grid("ab", 5), seed))) for seed in range(20)}) > 10


@pytest.mark.parametrize(
    "slices",
    [
        {},
        {"a": []},
        {"a": [AnnotatedSlice(2, i) for i in range(5)]},
        {image: [AnnotatedSlice(axis, 4) for axis in range(3)] for image in "abcd"},
    ],
    ids=["no image", "no slice", "five slices", "one per axis"],
)
def test_nothing_is_held_out_if_no_slice_can_be_spared(slices):
    split = split_slices(slices, 0)
    assert not split.has_validation
    assert not split.validation
    assert trained(split) == all_places(slices)


def test_new_slices_change_little_of_the_split():
    kept, before = 0, 0
    for seed in range(20):
        slices = grid("ab", 5)
        first = held_out(split_slices(slices, seed))
        slices["a"].append(AnnotatedSlice(1, 77))
        kept += len(first & held_out(split_slices(slices, seed)))
        before += len(first)
    assert kept >= 0.85 * before


def test_earlier_split_stays():
    for seed in range(10):
        earlier = split_slices(grid("ab", 3), seed)
        # Another seed, so that only the earlier split can be the reason.
        later = split_slices(grid("abc", 6), seed + 100, earlier)
        assert trained(earlier) <= trained(later)
        assert held_out(earlier) <= held_out(later)
        assert len(held_out(later)) == round(0.15 * 54)


def test_earlier_split_without_validation_leaves_its_slices_in_training():
    few = {"a": [AnnotatedSlice(2, i) for i in range(5)]}
    earlier = split_slices(few, 0)
    assert split_slices({"a": [*few["a"], AnnotatedSlice(2, 9)]}, 0, earlier).validation == {
        "a": [AnnotatedSlice(2, 9)]
    }
    assert not split_slices(few | {"b": [AnnotatedSlice(0, 3)]}, 0, earlier).has_validation


def test_slices_that_are_no_longer_annotated_leave_the_split():
    earlier = split_slices(grid("ab", 4), 0)
    gone = sorted(held_out(earlier))[0]
    slices = {image: [p for p in places if (image, *p) != gone] for image, places in grid("ab", 4).items()}
    later = split_slices(slices, 0, earlier)
    assert trained(later) | held_out(later) == all_places(slices)
    assert held_out(later) == held_out(earlier) - {gone}


def test_a_held_out_slice_that_is_the_last_of_its_axis_is_trained_on():
    earlier = SliceSplit({"a": [AnnotatedSlice(0, 1)]}, {"a": [AnnotatedSlice(0, 2)]})
    slices = {"a": [AnnotatedSlice(0, 2), *(AnnotatedSlice(2, i) for i in range(6))]}
    assert AnnotatedSlice(0, 2) in split_slices(slices, 0, earlier).training["a"]


def test_split_survives_json():
    split = split_slices(grid("ab", 4), 0)
    back = SliceSplit.from_json(json.loads(json.dumps(split.to_json())))
    assert back == split
    assert isinstance(back.training["a"][0], AnnotatedSlice)


def test_apply_split_agrees_with_a_loop():
    painted = keep_slices(
        structures((12, 11, 10)), [AnnotatedSlice(*p) for p in [(0, 3), (0, 8), (1, 5), (2, 2), (2, 7)]]
    )
    painted[10, 9, 9] = 1
    painted[10, 9, 7] = 2
    training = [AnnotatedSlice(0, 3), AnnotatedSlice(1, 5), AnnotatedSlice(2, 2)]
    validation = [AnnotatedSlice(0, 8), AnnotatedSlice(2, 7)]
    trained, scored = (part.array() for part in apply_split(Paint(painted), training, validation))
    for voxel in np.ndindex(painted.shape):
        in_training = any(voxel[axis] == i for axis, i in training)
        in_validation = any(voxel[axis] == i for axis, i in validation)
        held = in_validation and not in_training
        assert (trained[voxel], scored[voxel]) == ((0, painted[voxel]) if held else (painted[voxel], 0))
    assert trained.dtype == scored.dtype == np.uint8
    assert trained[10, 9, 9] == 1, "paint on no slice is trained on"
    assert scored.any()
