import itertools
import json

import nibabel
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from lib.core.annotations import (
    AnnotatedSlice,
    SliceSplit,
    annotated_slices,
    apply_split,
    fill_unpainted,
    keep_slices,
    split_slices,
    statistics,
    taught_classes,
)
from lib.core.labels import LabelScheme
from real_data import label_maps

SCHEME = LabelScheme(("inside", "tubule"), "outside")


def structures(shape, seed=0, size=9):
    """Rounded structures of about ``size`` voxels all over a volume: values 1, 2, and 3 for the rest."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), size / 3)
    low, high = np.percentile(noise, [70, 85])
    return np.where(noise > high, 1, np.where(noise > low, 2, 3)).astype(np.uint8)


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
def test_finds_slices_of_which_only_the_structures_are_painted(name, seed):
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


def test_finds_slices_beside_spheres_and_strokes():
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
    # Also with a tenth of the voxels left open.
    dense[np.random.default_rng(0).random(shape) < 0.1] = 0
    assert annotated_slices(dense) == everywhere


def test_nothing_painted():
    assert annotated_slices(np.zeros((9, 8, 7), np.uint8)) == []


def test_finds_all_slices_of_a_volume_of_the_papers_size():
    shape = (248, 244, 64)
    slices = [AnnotatedSlice(axis, i) for axis in range(3) for i in range(5, shape[axis], 20)]
    painted = keep_slices(np.ones(shape, np.uint8), slices)
    assert annotated_slices(painted) == slices


@pytest.mark.parametrize("file", label_maps())
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("foreground_only", [False, True])
def test_finds_slices_of_real_label_maps(file, seed, foreground_only):
    truth = np.asarray(nibabel.load(file).dataobj).astype(np.uint8)
    if not foreground_only:
        truth[truth == 0] = 3
    random, slices = np.random.default_rng(seed), []
    for axis in range(3):
        # Slices with hardly any paint on them are not to be found, nor small structures painted on many neighbours.
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


def test_taught_classes():
    slices = np.zeros((20, 20, 20), np.uint8)
    slices[3, 2:18, 2:18] = 1
    stroke = np.zeros_like(slices)
    stroke[3, 2:9, 5] = 2
    both = statistics(np.maximum(slices, stroke), SCHEME)
    assert taught_classes(both, SCHEME, "unlabelled") == {"inside", "tubule"}
    assert taught_classes(both, SCHEME, "background") == {"inside", "tubule", "outside"}
    assert taught_classes(statistics(stroke, SCHEME), SCHEME, "background") == {"tubule"}


def test_statistics():
    painted = keep_slices(structures((48, 40, 24)), [AnnotatedSlice(0, 5), AnnotatedSlice(2, 7), AnnotatedSlice(2, 9)])
    found = json.loads(json.dumps(statistics(painted, SCHEME)))
    voxels = painted.ravel().tolist()
    assert found == {
        "labelled_voxels": len(voxels) - voxels.count(0),
        "labelled_percent": pytest.approx(100 * (1 - voxels.count(0) / len(voxels))),
        "voxels": {"inside": voxels.count(1), "tubule": voxels.count(2), "outside": voxels.count(3)},
        "annotated_slices": [[5], [], [7, 9]],
        "mostly_unpainted": [[], [], []],
    }


def test_annotated_slices_with_little_paint():
    annotation = np.zeros((40, 40, 20), np.uint8)
    annotation[10:15, 10:17, 4] = 1
    annotation[10:19, 10:19, 9] = 1
    found = statistics(annotation, SCHEME)
    assert found["annotated_slices"] == [[], [], [4, 9]]
    # 35 of 1600 voxels, and 81.
    assert found["mostly_unpainted"] == [[], [], [4]]


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
def test_split_parts_the_slices(images, per_axis, seed):
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
def test_nothing_to_spare(slices):
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


def test_apply_split_parts_every_voxel_as_a_loop_does():
    painted = keep_slices(
        structures((12, 11, 10)), [AnnotatedSlice(*p) for p in [(0, 3), (0, 8), (1, 5), (2, 2), (2, 7)]]
    )
    painted[10, 9, 9] = 1
    painted[10, 9, 7] = 2
    training = [AnnotatedSlice(0, 3), AnnotatedSlice(1, 5), AnnotatedSlice(2, 2)]
    validation = [AnnotatedSlice(0, 8), AnnotatedSlice(2, 7)]
    learnt, judged = apply_split(painted, training, validation)
    for voxel in np.ndindex(painted.shape):
        in_training = any(voxel[axis] == i for axis, i in training)
        in_validation = any(voxel[axis] == i for axis, i in validation)
        held = in_validation and not in_training
        assert (learnt[voxel], judged[voxel]) == ((0, painted[voxel]) if held else (painted[voxel], 0))
    assert learnt.dtype == judged.dtype == np.uint8
    assert learnt[10, 9, 9] == 1, "paint on no slice is trained on"
    assert judged.any()
