import math
import tracemalloc
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch

from lib.core.volumes.working_grid import WorkingGrid


def test_the_own_grid_changes_nothing() -> None:
    grid = WorkingGrid.of((10, 11, 12), (1, 1, 2), None)
    assert grid.is_native
    image = np.random.default_rng(0).random((2, 10, 11, 12)).astype(np.float32)
    assert grid.image(image) is image


def test_half_the_resolution_as_in_the_paper() -> None:
    grid = WorkingGrid.of((496, 488, 128), (0.88, 0.88, 1.02), (1.76, 1.76, 2.04))
    assert grid.working == (248, 244, 64)
    assert grid.voxel_size((0.88, 0.88, 1.02)) == pytest.approx((1.76, 1.76, 2.04))


def test_coarser_image_keeps_positions_and_means() -> None:
    """A linear ramp stays the same ramp in space: voxel j of the working grid lies at (j + 0.5) * 2 - 0.5."""
    grid = WorkingGrid.of((40, 20, 20), (1, 1, 1), (2, 2, 1))
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32)[:, None, None], (1, 40, 20, 20)).copy()
    coarse = grid.image(ramp)
    assert coarse.shape == (1, 20, 10, 20)
    np.testing.assert_allclose(coarse[0, 3:-3, 5, 5], 2 * np.arange(3, 17) + 0.5, atol=0.01)


@pytest.mark.parametrize("spacing", [(2, 2, 2), (3.1, 1, 2), (0.5, 0.7, 1), (1.5, 1.5, 1.5)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_no_painted_plane_is_lost(axis: int, spacing: tuple[float, ...]) -> None:
    shape = (30, 28, 26)
    grid = WorkingGrid.of(shape, (1, 1, 1), spacing)
    for index in range(0, shape[axis], 3):
        annotation = np.zeros(shape, dtype=np.uint8)
        np.moveaxis(annotation, axis, 0)[index] = 2
        planes = np.moveaxis(grid.annotation(annotation), axis, 0) != 0
        painted = np.flatnonzero(planes.any(axis=(1, 2)))
        assert len(painted) >= 1
        assert planes[painted].all()
        centre = (index + 0.5) * grid.working[axis] / shape[axis] - 0.5
        assert np.abs(painted - centre).max() <= max(0.51, 0.5 * grid.working[axis] / shape[axis] + 0.5)


def test_working_voxel_takes_the_most_frequent_label_in_it() -> None:
    annotation = np.zeros((4, 2, 2), dtype=np.uint8)
    annotation[:2] = [[[1, 2], [2, 0]], [[0, 0], [0, 0]]]
    annotation[2:, 0, 0] = 3
    grid = WorkingGrid.of((4, 2, 2), (1, 1, 1), (2, 2, 2))
    assert grid.annotation(annotation).ravel().tolist() == [2, 3]


def plain_annotation(annotation: np.ndarray, grid: WorkingGrid) -> np.ndarray:
    """The rule, voxel by voxel in exact fractions."""
    result = np.zeros(grid.working, np.uint8)
    scale = [Fraction(working, native) for native, working in zip(grid.native, grid.working, strict=True)]
    inside: dict[tuple[int, ...], list[tuple[Fraction, int]]] = {}
    for voxel in zip(*np.nonzero(annotation), strict=True):
        position = [(int(at) + Fraction(1, 2)) * factor for at, factor in zip(voxel, scale, strict=True)]
        working = tuple(math.floor(at) for at in position)
        distance = sum((at - place - Fraction(1, 2)) ** 2 for at, place in zip(position, working, strict=True))
        inside.setdefault(working, []).append((Fraction(distance), int(annotation[voxel])))
    for place in np.ndindex(*grid.working):
        found = inside.get(place)
        if found is None:
            centre = [(at + Fraction(1, 2)) / factor for at, factor in zip(place, scale, strict=True)]
            result[place] = annotation[tuple(math.floor(at) for at in centre)]
            continue
        counts = Counter(value for _, value in found)
        tied = [(distance, value) for distance, value in found if counts[value] == max(counts.values())]
        result[place] = [value for distance, value in tied if distance == min(tied)[0]][-1]
    return result


@pytest.mark.parametrize("spacing", [(2, 2, 2), (3, 2, 1), (1.7, 1.3, 2.2), (0.5, 2, 1), (0.7, 0.6, 0.9)])
@pytest.mark.parametrize("share", [0.05, 0.6, 1.0])
def test_labels_are_those_of_a_plain_loop(spacing: tuple[float, ...], share: float) -> None:
    random = np.random.default_rng(3)
    annotation = random.integers(1, 4, (13, 12, 10)).astype(np.uint8)
    annotation[random.random(annotation.shape) > share] = 0
    grid = WorkingGrid.of(annotation.shape, (1, 1, 1), spacing)
    for memory in (annotation, np.asfortranarray(annotation)):
        np.testing.assert_array_equal(grid.annotation(memory), plain_annotation(annotation, grid))


def test_no_class_gains_by_ties() -> None:
    """Two classes are mirror images of each other. After halving, they still are, with equally many voxels."""
    random = np.random.default_rng(0)
    annotation = random.integers(1, 3, (60, 60, 60)).astype(np.uint8)
    grid = WorkingGrid.of(annotation.shape, (1, 1, 1), (2, 2, 2))
    halved = grid.annotation(annotation)
    assert abs(np.count_nonzero(halved == 1) / halved.size - 0.5) < 0.01
    np.testing.assert_array_equal(grid.annotation(3 - annotation), 3 - halved)


def test_resampling_an_annotation_takes_little_more_memory_than_the_annotation() -> None:
    annotation = np.ones((120, 100, 80), np.uint8)
    annotation[::2] = 9
    grid = WorkingGrid.of(annotation.shape, (1, 1, 1), (2, 2, 2))
    tracemalloc.start()
    grid.annotation(annotation)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3.5 * annotation.nbytes


def test_prediction_comes_back_onto_the_volumes_grid() -> None:
    """A ball seen on the coarse grid comes back as nearly the same ball."""
    shape = (40, 36, 30)
    x = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    ball = (np.linalg.norm(x - np.array([22, 17, 14]), axis=-1) < 10).astype(np.float32)
    grid = WorkingGrid.of(shape, (1, 1, 1), (2, 2, 2))
    back = grid.back(torch.tensor(grid.image(np.stack([1 - ball, ball]))))
    assert back.shape == (2, *shape)
    found = back.argmax(dim=0).numpy() == 1
    overlap = (found & (ball > 0)).sum() / (found | (ball > 0)).sum()
    assert overlap > 0.93
