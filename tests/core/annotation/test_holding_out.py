"""What is held out of annotations of every kind, checked by brute force on the working grid."""

import json

import numpy as np
import pytest

from lib.core.annotation.holding_out import Painted, hold_out
from lib.core.annotation.paint import Paint
from lib.core.annotation.slices import AnnotatedSlice, detect, keep_slices
from lib.core.annotation.split import Block, SliceSplit
from lib.core.labels import LabelScheme
from lib.core.volumes.working_grid import WorkingGrid
from painted import structures

SCHEME = LabelScheme(("inside", "tubule"), "outside")
SHAPE = (48, 44, 32)
SPACINGS = [None, (2, 2, 2), (1, 1.3, 2.6), (0.5, 0.7, 1)]


def parts_of(split, annotation, grid):
    return tuple(paint.array() for paint in split.part("a", Paint(annotation), grid))


def part_known(split, image, annotation, slices, grid):
    return tuple(paint.array() for paint in split.part_known(image, Paint(annotation), slices, grid))


def slices(*places):
    return keep_slices(structures(SHAPE), [AnnotatedSlice(*place) for place in places])


def box(*sizes):
    """Structures that are painted only in a box of these sizes."""
    painted = np.zeros(SHAPE, np.uint8)
    inner = tuple(slice(5, 5 + size) for size in sizes)
    painted[inner] = structures(SHAPE)[inner]
    return painted


def strokes():
    painted = np.zeros(SHAPE, np.uint8)
    random = np.random.default_rng(4)
    for _ in range(60):
        x, y, z = (int(random.integers(length - 8)) for length in SHAPE)
        painted[x : x + 7, y : y + 2, z] = random.integers(1, 4)
    return painted


STACK = [(2, i) for i in range(4, 28)]
CROSSED = [(0, 10), (0, 30), (1, 7), (1, 22), (1, 38)]
KINDS = {
    "dense": structures(SHAPE),
    "dense, a tenth left open": np.where(np.random.default_rng(0).random(SHAPE) < 0.1, 0, structures(SHAPE)),
    "stack": slices(*STACK),
    "stack and crossing slices": slices(*STACK, *CROSSED),
    "stack along x": slices(*((0, i) for i in range(10, 40))),
    "two stacks": slices(*((2, i) for i in (*range(4, 14), *range(18, 28)))),
    "structures of a stack": np.where(slices(*STACK) == 3, 0, slices(*STACK)),
    "box": box(30, 28, 20),
    "strokes": strokes(),
    "slices and a box that is most of it": np.maximum(slices((0, 40), (1, 40)), box(24, 24, 24)),
}

ACROSS = {
    "stack": 2,
    "stack and crossing slices": 2,
    "stack along x": 0,
    "two stacks": 2,
    "structures of a stack": 2,
}
"""The axis across which stacks were painted; blocks lie across it, too."""


def grid_of(spacing, shape=SHAPE):
    return WorkingGrid.of(shape, (1, 1, 1), spacing)


def painted(annotation, spacing=None):
    found = detect(Paint(annotation))
    return Painted(Paint(annotation), found.slices, found.stacked, grid_of(spacing, annotation.shape))


def working_planes(annotation, grid, axis):
    """The working planes that hold labelled voxels, found by resampling."""
    resampled = grid.annotation(annotation)
    return np.flatnonzero(np.any(resampled, axis=tuple(other for other in range(3) if other != axis)))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_blocks_hold_enough_and_keep_a_margin_from_training_planes(kind, spacing):
    annotation = KINDS[kind].astype(np.uint8)
    one = painted(annotation, spacing)
    split = hold_out({"a": one}, SCHEME, 0)
    trained, scored = parts_of(split, annotation, one.grid)
    assert split.validation.get("a", []) == []
    (block,) = split.blocks["a"]
    assert block.axis == ACROSS.get(kind, block.axis)
    distances = np.abs(
        working_planes(trained, one.grid, block.axis)[:, None] - working_planes(scored, one.grid, block.axis)
    )
    assert distances.min() > 3
    assert np.count_nonzero(scored) >= 0.05 * np.count_nonzero(annotation)
    assert np.count_nonzero(trained) >= 0.5 * np.count_nonzero(annotation)
    assert not np.any((trained > 0) & (scored > 0))
    assert set(np.unique(scored)) <= set(np.unique(trained))
    # Only the margins are lost, and what is kept is unchanged.
    inside = np.moveaxis(annotation, block.axis, 0)[block.first : block.last + 1]
    assert (np.moveaxis(scored, block.axis, 0)[block.first : block.last + 1] == inside).all()
    for part in (trained, scored):
        assert (part[part > 0] == annotation[part > 0]).all()
    voxels = max(1, one.grid.native[block.axis] / one.grid.working[block.axis])
    lost = np.flatnonzero(
        np.any((annotation > 0) & (trained == 0) & (scored == 0), axis=tuple({0, 1, 2} - {block.axis}))
    )
    assert len(lost) <= 2 * np.ceil(4 * voxels)


@pytest.mark.parametrize("kind", ["stack", "dense", "stack and crossing slices", "strokes"])
@pytest.mark.parametrize("spacing", [None, (2, 2, 2)])
def test_what_was_held_out_or_trained_on_stays_so(kind, spacing):
    """First a part of the annotation, then all of it. The border between both is within reach of the first block."""
    whole = KINDS[kind].astype(np.uint8)
    first = whole.copy()
    first[:, :, 20:] = 0
    before = hold_out({"a": painted(first, spacing)}, SCHEME, 0)
    assert before.blocks["a"]
    after = hold_out({"a": painted(whole, spacing), "b": painted(KINDS["stack"], spacing)}, SCHEME, 7, before)
    grid = grid_of(spacing)
    trained_before, scored_before = parts_of(before, first, grid)
    trained, scored = parts_of(after, whole, grid)
    assert not np.any(trained[scored_before > 0])
    assert (scored[scored_before > 0] > 0).all()
    assert (trained[trained_before > 0] > 0).all()
    assert after.blocks["a"][0].axis == before.blocks["a"][0].axis
    assert after.blocks["b"]


def test_a_block_that_has_become_too_small_gets_another_one_off_training_planes():
    shape = (24, 20, 200)
    whole = structures(shape)
    first = whole.copy()
    first[:, :, 24:] = 0
    before = hold_out({"a": painted(first)}, SCHEME, 0)
    trained_before, scored_before = parts_of(before, first, grid_of(None, shape))
    after = hold_out({"a": painted(whole)}, SCHEME, 0, before)
    trained, scored = parts_of(after, whole, grid_of(None, shape))
    assert np.count_nonzero(scored) >= 0.05 * whole.size
    assert (scored[scored_before > 0] > 0).all()
    assert (trained[trained_before > 0] > 0).all()
    axis = before.blocks["a"][0].axis
    planes = [
        np.flatnonzero(np.any(part, axis=tuple({0, 1, 2} - {axis}))) for part in (trained + trained_before, scored)
    ]
    assert np.abs(planes[0][:, None] - planes[1]).min() > 3


def test_a_stack_is_not_scored_near_slices_trained_on_before():
    """Three crossing slices were trained on; then everything is labelled."""
    whole = KINDS["dense"]
    few = [AnnotatedSlice(0, 20), AnnotatedSlice(1, 12), AnnotatedSlice(2, 9)]
    before = hold_out({"a": painted(keep_slices(whole, few))}, SCHEME, 0)
    assert before == SliceSplit({"a": few}, {})
    after = hold_out({"a": painted(whole)}, SCHEME, 0, before)
    trained, scored = parts_of(after, whole, grid_of(None))
    assert np.count_nonzero(scored) >= 0.05 * whole.size
    for axis, index in few:
        assert np.moveaxis(trained, axis, 0)[index].all()
        assert not np.moveaxis(scored, axis, 0)[index - 3 : index + 4].any()
    assert set(few) <= set(after.training["a"])


def test_slices_held_out_before_are_not_trained_on_when_their_neighbours_are_painted():
    places = [AnnotatedSlice(axis, index) for axis in range(3) for index in (5, 14, 23)]
    whole = KINDS["dense"]
    before = hold_out({"a": painted(keep_slices(whole, places))}, SCHEME, 0)
    assert before.validation["a"]
    after = hold_out({"a": painted(whole)}, SCHEME, 0, before)
    trained, _ = parts_of(after, whole, grid_of(None))
    if after.has_validation:
        for axis, index in before.validation["a"]:
            assert not np.moveaxis(trained, axis, 0)[index].any()


def test_later_paint_was_neither_trained_on_nor_held_out():
    whole = KINDS["stack"]
    first = whole.copy()
    first[:, :, 20:] = 0
    split = hold_out({"a": painted(first)}, SCHEME, 0)
    parts = parts_of(split, first, grid_of(None))
    later = part_known(split, "a", whole, painted(whole).slices, grid_of(None))
    assert split.blocks["a"][0].axis == 2
    for now, then in zip(later, parts, strict=True):
        assert (now == then).all()
    unknown = part_known(split, "b", whole, painted(whole).slices, grid_of(None))
    assert not any(part.any() for part in unknown)


def test_few_crossing_slices_are_held_out_as_planes():
    places = [AnnotatedSlice(axis, index) for axis in range(3) for index in (5, 14, 23)]
    annotation = keep_slices(structures(SHAPE), places)
    split = hold_out({"a": painted(annotation)}, SCHEME, 0)
    assert not split.blocks
    assert len(split.validation["a"]) == 1
    assert sorted(split.training["a"] + split.validation["a"]) == places
    trained, scored = parts_of(split, annotation, grid_of(None))
    assert ((trained > 0) | (scored > 0)).sum() == np.count_nonzero(annotation)


def test_neighbouring_slices_are_not_held_out_and_nothing_near_them_is_scored():
    """Two slices are neighbours. Neither is held out, and slices that cross them aren't scored near them."""
    places = [AnnotatedSlice(axis, index) for axis in range(3) for index in (5, 14, 23)] + [AnnotatedSlice(2, 15)]
    annotation = keep_slices(structures(SHAPE), places)
    crossing = 0
    for seed in range(8):
        split = hold_out({"a": painted(annotation)}, SCHEME, seed)
        assert split.validation["a"]
        assert not {AnnotatedSlice(2, 14), AnnotatedSlice(2, 15)} & set(split.validation["a"])
        _, scored = parts_of(split, annotation, grid_of(None))
        assert not scored[:, :, 11:19].any()
        crossing += any(axis < 2 for axis, _ in split.validation["a"])
    assert crossing


@pytest.mark.parametrize("planes", [[10], [10, 11], range(8, 13), range(7)])
def test_a_stack_that_leaves_no_room_for_a_margin_is_trained_on_as_a_whole(planes):
    annotation = slices(*((2, index) for index in planes))
    one = painted(annotation)
    split = hold_out({"a": one}, SCHEME, 0)
    assert not split.has_validation
    trained, scored = parts_of(split, annotation, one.grid)
    assert (trained == annotation).all()
    assert not scored.any()


def test_a_dab_is_trained_on_as_a_whole():
    annotation = np.zeros(SHAPE, np.uint8)
    annotation[3:9, 4:6, 7] = 1
    annotation[12:16, 4:6, 9] = 3
    assert not hold_out({"a": painted(annotation)}, SCHEME, 0).has_validation


def test_a_class_in_one_place_only_is_trained_on():
    annotation = np.full(SHAPE, 3, np.uint8)
    annotation[20:28, 20:28, :] = 1
    annotation[0:5] = 2
    one = painted(annotation)
    trained, scored = parts_of(hold_out({"a": one}, SCHEME, 0), annotation, one.grid)
    assert set(np.unique(trained)) == {0, 1, 2, 3}
    assert {1, 3} <= set(np.unique(scored))


def test_nothing_is_held_out_if_too_little_would_be_scored():
    """Nine slices in a small image, and a large image whose stack has no room for a block."""
    shape = (64, 64, 10)
    cases = {
        "few": painted(
            keep_slices(structures((16, 16, 16)), [AnnotatedSlice(a, i) for a in range(3) for i in (2, 7, 12)])
        ),
        "stack": painted(keep_slices(structures(shape), [AnnotatedSlice(2, i) for i in range(2, 7)])),
    }
    assert hold_out({"few": cases["few"]}, SCHEME, 0).has_validation
    assert not hold_out(cases, SCHEME, 0).has_validation


def test_blocks_survive_json_and_earlier_splits_have_none():
    split = SliceSplit({"a": [AnnotatedSlice(2, 9)]}, {}, {"a": [Block(2, 1, 4)]})
    content = json.loads(json.dumps(split.to_json()))
    assert content["blocks"] == {"a": [[2, 1, 4]]}
    assert SliceSplit.from_json(content) == split
    assert split.has_validation
    del content["blocks"]
    assert SliceSplit.from_json(content) == SliceSplit({"a": [AnnotatedSlice(2, 9)]}, {})
