import nibabel
import numpy as np
import pytest
from scipy.ndimage import label

from lib.core.annotation.slices import (
    AnnotatedSlice,
    annotated_slices,
    fill_unpainted,
    keep_slices,
    whole_slices,
)
from lib.core.annotation.statistics import annotation_statistics
from lib.core.labels import LabelScheme
from painted import structures
from real_data import label_maps

SCHEME = LabelScheme(("inside", "tubule"), "outside")


def brush(shape, centre, radius):
    """A sphere as Slicer's sphere brush paints it."""
    distance = sum((grid - at) ** 2 for grid, at in zip(np.indices(shape), centre, strict=True))
    return (distance <= radius**2).astype(np.uint8)


SLICES = {
    "one": [(2, 10)],
    "first and last": [(0, 0), (0, 47), (1, 0), (1, 39), (2, 0), (2, 23)],
    "three on each axis": [(0, 5), (0, 24), (0, 40), (1, 3), (1, 20), (1, 35), (2, 4), (2, 11), (2, 19)],
    "neighbours": [(2, 8), (2, 9), (2, 10), (2, 11), (0, 20), (0, 21)],
    "every second": [(2, i) for i in range(0, 24, 2)],
    "two of three, crossed": [(2, i) for i in range(24) if i % 3] + [(0, 7), (1, 30)],
    "every sixth on each axis": [(axis, i) for axis, n in enumerate((48, 40, 24)) for i in range(0, n, 6)],
}


@pytest.mark.parametrize("name", SLICES)
def test_finds_fully_painted_slices(name):
    painted = keep_slices(structures((48, 40, 24)), [AnnotatedSlice(*place) for place in SLICES[name]])
    assert annotated_slices(painted) == sorted(SLICES[name])


@pytest.mark.parametrize("name", ["one", "three on each axis", "every second", "every sixth on each axis"])
@pytest.mark.parametrize("seed", range(3))
def test_finds_slices_on_which_only_the_structures_are_painted(name, seed):
    truth = structures((48, 40, 24), seed)
    truth[truth == 3] = 0
    painted = keep_slices(truth, [AnnotatedSlice(*place) for place in SLICES[name]])
    assert annotated_slices(painted) == sorted(SLICES[name])


def test_finds_slices_with_two_small_blobs():
    painted = np.zeros((60, 60, 30), np.uint8)
    painted[10:14, 20:24, 7] = 1
    painted[40:43, 30:34, 7] = 2
    assert annotated_slices(painted) == [(2, 7)]


@pytest.mark.parametrize("radius", [2, 3, 5, 8, 12])
def test_spheres_are_no_slices(radius):
    assert annotated_slices(brush((48, 40, 40), (20, 19, 18), radius)) == []


def test_strokes_are_no_slices():
    painted = np.zeros((60, 60, 30), np.uint8)
    painted[5:9, 5:8, 3] = 1
    painted[20:60, 30, 12] = 2
    painted[7, 7, :] = 1
    assert annotated_slices(painted) == []


def test_finds_slices_among_spheres_and_strokes():
    shape = (60, 50, 30)
    painted = keep_slices(structures(shape), [AnnotatedSlice(0, 12), AnnotatedSlice(2, 20)])
    painted = np.maximum(painted, brush(shape, (40, 25, 12), 7))
    painted = np.maximum(painted, brush(shape, (12, 25, 20), 5))
    painted[30:45, 10:13, 2] = 1
    painted[30:33, 40:44, 5] = 1
    assert annotated_slices(painted) == [(0, 12), (2, 2), (2, 20)]


@pytest.mark.parametrize("shape", [(30, 40, 20), (64, 64, 6), (3, 50, 50)])
def test_dense_annotation_is_annotated_everywhere(shape):
    everywhere = [(axis, i) for axis in range(3) for i in range(shape[axis])]
    dense = structures(shape)
    assert annotated_slices(dense) == everywhere
    # Also with a tenth of the voxels left unpainted.
    dense[np.random.default_rng(0).random(shape) < 0.1] = 0
    assert annotated_slices(dense) == everywhere


def test_nothing_painted():
    assert annotated_slices(np.zeros((9, 8, 7), np.uint8)) == []


def test_finds_all_slices_of_a_volume_of_the_papers_size():
    shape = (248, 244, 64)
    slices = [AnnotatedSlice(axis, i) for axis in range(3) for i in range(5, shape[axis], 20)]
    painted = keep_slices(np.ones(shape, np.uint8), slices)
    assert annotated_slices(painted) == slices


def plain_annotated_slices(annotation):
    """The rule of ``annotated_slices`` on whole volumes, with runs measured by labelling them."""
    labelled = annotation != 0
    shape, axes = labelled.shape, range(3)
    runs = []
    for axis in axes:
        line = np.zeros((3, 3, 3), bool)
        np.moveaxis(line, axis, 0)[:, 1, 1] = True
        numbers, _ = label(labelled, line)
        runs.append(np.where(labelled, np.bincount(numbers.ravel())[numbers], 0))

    def others(items, axis):
        return [item for other, item in enumerate(items) if other != axis]

    def on_planes(mask, axis, excluded):
        first, second = others(excluded, axis)
        return np.count_nonzero(np.moveaxis(mask, axis, 0)[:, ~first][:, :, ~second], axis=(1, 2))

    shortest = [np.minimum(np.minimum(*others(runs, axis)), shape[axis]) for axis in axes]
    lies_in = [labelled & (runs[axis] <= shortest[axis] // 2) for axis in axes]
    solid = labelled & ~np.any(lies_in, axis=0)
    found = nowhere = [np.zeros(length, bool) for length in shape]
    flat = [on_planes(lies_in[axis], axis, nowhere) for axis in axes]
    enough = [flat[axis] >= max(16, 0.002 * labelled.size / shape[axis]) for axis in axes]
    for _ in range(2):
        found = [enough[axis] & (flat[axis] >= on_planes(solid & (runs[axis] > 1), axis, found)) for axis in axes]
    slices = []
    for axis in axes:
        area = np.prod([np.count_nonzero(~flags) for flags in others(found, axis)])
        dense = (2 * on_planes(labelled, axis, found) >= area) & (area > 0)
        slices += [(axis, int(index)) for index in np.flatnonzero(found[axis] | dense)]
    return slices


@pytest.mark.parametrize("density", [0.03, 0.3, 0.9])
@pytest.mark.parametrize("seed", range(12))
def test_finds_what_the_rule_finds_on_whole_volumes(seed, density):
    """Slices of structures, a painted box and noise, in any memory order."""
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(1, 40, 3))
    dense = structures(shape, seed)
    if seed % 2:
        dense[dense == 3] = 0
    places = [AnnotatedSlice(axis, i) for axis in range(3) for i in range(shape[axis]) if random.random() < density]
    painted = keep_slices(dense, places)
    if seed % 3 == 0:
        corner = [int(random.integers(length)) for length in shape]
        painted[tuple(slice(start, start + 9) for start in corner)] = 2
    if seed % 4 == 0:
        painted[random.random(shape) < 0.1] = random.integers(4)
    for memory in (painted, np.asfortranarray(painted), painted[::-1].transpose(1, 0, 2).copy().transpose(1, 0, 2)):
        expected = plain_annotated_slices(memory)
        assert annotated_slices(memory) == expected
        assert annotation_statistics(memory, SCHEME)["annotated_slices"] == [
            [index for across, index in expected if across == axis] for axis in range(3)
        ]


@pytest.mark.parametrize("file", label_maps())
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("foreground_only", [False, True])
def test_finds_slices_of_real_label_maps(file, seed, foreground_only):
    truth = np.asarray(nibabel.load(file).dataobj).astype(np.uint8)
    if not foreground_only:
        truth[truth == 0] = 3
    random, slices = np.random.default_rng(seed), []
    for axis in range(3):
        # Slices with hardly any paint should not be found, nor small structures painted on many neighbouring slices.
        paint = np.count_nonzero(np.moveaxis(truth, axis, 0), axis=(1, 2))
        rich = np.flatnonzero(paint > max(60, 0.01 * truth.size / truth.shape[axis]))
        slices += [AnnotatedSlice(axis, int(i)) for i in random.choice(rich[::2], 3, replace=False)]
    assert annotated_slices(keep_slices(truth, slices)) == sorted(slices)


def test_keep_slices_keeps_what_a_loop_keeps():
    dense = structures((7, 6, 5))
    slices = [AnnotatedSlice(0, 2), AnnotatedSlice(2, 4)]
    kept = keep_slices(dense, slices)
    for voxel in np.ndindex(dense.shape):
        assert kept[voxel] == (dense[voxel] if any(voxel[axis] == i for axis, i in slices) else 0)
    assert kept.dtype == np.uint8


def test_filling_labels_what_a_loop_labels():
    shape = (24, 20, 16)
    places = [AnnotatedSlice(0, 5), AnnotatedSlice(1, 4), AnnotatedSlice(1, 15), AnnotatedSlice(2, 8)]
    painted = keep_slices(np.where(structures(shape, seed=1, size=5) > 1, 1, 0).astype(np.uint8), places)
    painted[18:22, 8:12, 1:5] = 2
    painted[12:20, 17, 12] = 1
    assert annotated_slices(painted) == places
    before = painted.copy()
    filled = fill_unpainted(painted, annotated_slices(painted), SCHEME)
    assert (painted == before).all()
    for x, y, z in np.ndindex(shape):
        on_slice = x == 5 or y in (4, 15) or z == 8
        expected = painted[x, y, z] if painted[x, y, z] or not on_slice else 3
        assert filled[x, y, z] == expected
    assert filled.dtype == np.uint8
    assert (fill_unpainted(painted, [], SCHEME) == painted).all()


STACKS = {
    "22 of 32": sorted(np.random.default_rng(0).choice(32, 22, replace=False).tolist()),
    "two of three": [i for i in range(32) if i % 3],
    "every second": list(range(0, 32, 2)),
    "one stack": list(range(5, 27)),
    "two stacks": [*range(3, 12), *range(16, 28)],
    "nearly all": [i for i in range(32) if i not in (0, 1, 30, 31)],
}


def organ():
    x, y, z = np.indices((64, 64, 32))
    return (((x - 32) / 26) ** 2 + ((y - 32) / 24) ** 2 + ((z - 16) / 15) ** 2 <= 1).astype(np.uint8)


def tubes():
    x, y, _ = np.indices((64, 64, 32))
    return np.any([(x - a) ** 2 + (y - b) ** 2 <= 9 for a, b in ((20, 20), (40, 30), (30, 50))], axis=0).astype(
        np.uint8
    )


STRUCTURES = {
    "organ": organ(),
    "tubes": tubes(),
    "many": np.where(structures((64, 64, 32), seed=2, size=20) < 3, 1, 0).astype(np.uint8),
    "most of the volume": (np.hypot(*(np.indices((64, 64, 32))[:2] - 32)) <= 30).astype(np.uint8),
    "all of the volume": np.ones((64, 64, 32), np.uint8),
    "a box": np.pad(np.ones((50, 50, 28), np.uint8), ((7, 7), (7, 7), (2, 2))),
}


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize(
    "crossing",
    [[], [(0, 32), (1, 30)], [(axis, i) for axis in (0, 1) for i in (9, 24, 40, 55)]],
    ids=["alone", "crossed", "crossed often"],
)
@pytest.mark.parametrize("axes", [pytest.param((0, 1, 2), marks=pytest.mark.slow), (2, 0, 1)])
def test_nothing_is_filled_outside_the_planes_that_were_painted(stack, name, crossing, axes):
    places = [AnnotatedSlice(2, i) for i in STACKS[stack]] + [AnnotatedSlice(*place) for place in crossing]
    painted = keep_slices(STRUCTURES[name], places)
    looked_at = keep_slices(np.ones_like(painted), places) == 1
    painted, looked_at = painted.transpose(axes), looked_at.transpose(axes)
    filled = fill_unpainted(painted, annotated_slices(painted), SCHEME) != painted
    assert not np.any(filled & ~looked_at)
    assert set(whole_slices(painted)) <= set(annotated_slices(painted))


@pytest.mark.parametrize(
    ("name", "stack"),
    [
        ("organ", "22 of 32"),
        ("organ", "every second"),
        ("organ", "two stacks"),
        ("tubes", "two of three"),
        ("many", "22 of 32"),
        ("most of the volume", "one stack"),
        ("most of the volume", "nearly all"),
    ],
)
def test_slices_painted_as_planes_are_filled_however_many_there_are(name, stack):
    """All slices with enough paint are filled. Unpainted voxels of the others say nothing."""
    painted = keep_slices(STRUCTURES[name], [AnnotatedSlice(2, i) for i in STACKS[stack]])
    rich = [(2, i) for i in STACKS[stack] if np.count_nonzero(painted[:, :, i]) > 60]
    assert set(rich) >= set(whole_slices(painted)) >= set(rich) - {(2, i) for i in (1, 2, 30, 31)}
    filled = fill_unpainted(painted, annotated_slices(painted), SCHEME)
    assert all(filled[:, :, index].all() for _, index in whole_slices(painted))
