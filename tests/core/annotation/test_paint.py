"""Labelled voxels, kept as indices or as an array, compared with plain numpy."""

import numpy as np
import pytest
from numpy.typing import NDArray

from lib.core.annotation.paint import Paint
from painted import structures

SHAPE = (23, 17, 11)


def sparse() -> NDArray[np.uint8]:
    annotation = np.zeros(SHAPE, np.uint8)
    annotation[20] = structures(SHAPE)[20]
    annotation[3:9, 16, 10] = 2
    return annotation


ANNOTATIONS = {
    "sparse": sparse(),
    "dense": structures(SHAPE),
    "empty": np.zeros(SHAPE, np.uint8),
    "sparse in the memory order of files": np.asfortranarray(sparse()),
    "dense, y first in memory": np.ascontiguousarray(structures(SHAPE).transpose(1, 2, 0)).transpose(2, 0, 1),
}
every = pytest.mark.parametrize("annotation", ANNOTATIONS.values(), ids=ANNOTATIONS.keys())


def test_both_ways_to_keep_paint_are_tested() -> None:
    assert Paint(ANNOTATIONS["sparse"])._dense is None
    assert Paint(ANNOTATIONS["dense"])._dense is not None


@every
def test_the_annotation_comes_back(annotation: NDArray[np.uint8]) -> None:
    paint = Paint(annotation)
    np.testing.assert_array_equal(paint.array(), annotation)
    assert paint.volume_shape == SHAPE
    assert paint.labelled == np.count_nonzero(annotation)
    np.testing.assert_array_equal(paint.voxels(), np.bincount(annotation.ravel(), minlength=256))


@every
def test_boxes_are_those_of_the_annotation(annotation: NDArray[np.uint8]) -> None:
    paint, random = Paint(annotation), np.random.default_rng(0)
    for _ in range(20):
        x, y, z = (slice(*map(int, np.sort(random.choice(size + 1, 2, replace=False)))) for size in SHAPE)
        np.testing.assert_array_equal(paint.array((x, y, z)), annotation[x, y, z])


@every
def test_places_are_those_of_the_annotation(annotation: NDArray[np.uint8]) -> None:
    places, values = Paint(annotation).places()
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[places] = values
    np.testing.assert_array_equal(drawn, annotation)
    assert len(values) == np.count_nonzero(annotation)
    assert values.all()


@every
def test_some_of_the_paint(annotation: NDArray[np.uint8]) -> None:
    """Few of many voxels, all of them, and what a condition on each axis leaves."""
    x, y, z = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    flags = np.random.default_rng(1).random(SHAPE[0]) < 0.5
    paint = Paint(annotation)
    found = paint.where(lambda voxels: (voxels[0] == 20) | flags[voxels[0]] & (voxels[1] > voxels[2]))
    expected = np.where((x == 20) | flags[x] & (y > z), annotation, 0)
    np.testing.assert_array_equal(found.array(), expected)
    assert found.labelled == np.count_nonzero(expected)
    few = paint.where(lambda voxels: (voxels[0] == 20) & (voxels[2] == 4))
    np.testing.assert_array_equal(few.array(), np.where((x == 20) & (z == 4), annotation, 0))
    assert few._dense is None
    np.testing.assert_array_equal(paint.where(lambda voxels: np.True_).array(), annotation)
    np.testing.assert_array_equal(paint.array(), annotation)
