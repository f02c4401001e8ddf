"""Objects against scipy's labelling, and touching balls."""

import numpy as np
import pytest
from scipy import ndimage

import shapes
from lib.core.measurement.objects import find


@pytest.mark.parametrize(("neighbours", "rank"), [(6, 1), (18, 2), (26, 3)])
def test_neighbours(neighbours, rank):
    labels = np.random.default_rng(neighbours).choice(3, (20, 18, 16), p=[0.7, 0.2, 0.1]).astype(np.uint8)
    found = find(labels, neighbours, 1)
    expected = []
    for value in (1, 2):
        numbers, count = ndimage.label(labels == value, ndimage.generate_binary_structure(3, rank))
        sizes = np.bincount(numbers.ravel())[1:]
        expected += [(value, int(size)) for size in sorted(sizes, reverse=True)]
        # Each object is one of scipy's, and the other way round.
        pairs = np.unique([found.numbers[labels == value], numbers[labels == value]], axis=1)
        assert pairs.shape[1] == count == len(np.unique(pairs[0])) == len(np.unique(pairs[1]))
    assert list(zip(found.classes, found.voxels, strict=True)) == expected
    assert ((found.numbers == 0) == (labels == 0)).all()
    for number, box in enumerate(found.boxes(), start=1):
        where = np.argwhere(found.numbers == number)
        assert [(side.start, side.stop - 1) for side in box] == list(
            zip(where.min(axis=0), where.max(axis=0), strict=True)
        )


def two_balls(apart, spacing=(1, 1, 1)):
    at = shapes.places(44, spacing)
    other = at - np.reshape([apart, 0, 0], (3, 1, 1, 1))
    return (shapes.ball(at, 10) | shapes.ball(other, 10)).astype(np.uint8)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.5, 0.5, 1.5)], ids=str)
@pytest.mark.parametrize("apart", [14, 17, 19])
def test_touching_balls_are_split_in_the_middle(apart, spacing):
    labels = two_balls(apart, spacing)
    assert len(find(labels, 26, 1).voxels) == 1
    found = find(labels, 26, 1, spacing)
    assert len(found.voxels) == 2
    assert ((found.numbers > 0) == (labels > 0)).all()
    middle = shapes.places(44, spacing)[0] > apart / 2
    one, other = ((found.numbers == number) & middle for number in (1, 2))
    # One lies on this side of the middle, the other on that side.
    assert min(one.sum(), other.sum()) / labels.sum() < 0.02


@pytest.mark.parametrize("apart", [0, 6])
def test_what_has_no_neck_stays_whole(apart):
    assert len(find(two_balls(apart), 26, 1, (1, 1, 1)).voxels) == 1


def test_parts_that_a_split_makes_may_be_too_small():
    labels = two_balls(17)
    at = shapes.places(44, (1, 1, 1))
    labels[shapes.ball(at + np.reshape([12, 0, 0], (3, 1, 1, 1)), 3)] = 1
    found = find(labels, 26, 500, (1, 1, 1))
    assert len(found.voxels) == 2
    assert found.left_out[1][0] == 1
    assert sum(found.voxels) + found.left_out[1][1] == labels.sum()
