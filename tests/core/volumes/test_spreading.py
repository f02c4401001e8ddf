"""Boxes that are spread over a volume."""

import itertools
import math

import numpy as np
import pytest

from lib.core.volumes.spreading import spread


@pytest.mark.parametrize("shape", [(100, 90, 70), (16, 64, 7), (33, 16, 200), (10, 10, 10)])
def test_as_many_boxes_as_fit_do_not_overlap(shape: tuple[int, int, int]) -> None:
    sides = np.minimum(shape, 16)
    found = list(spread(shape, (16, 16, 16)))
    assert len(found) == math.prod(np.array(shape) // sides)
    count = np.zeros(shape, int)
    for box in found:
        assert count[box].shape == tuple(sides)
        count[box] += 1
    assert count.max() == 1
    assert found == list(spread(shape, (16, 16, 16)))


def test_the_first_boxes_are_spread_evenly() -> None:
    """Each half along each axis has about half of them, and few touch the border."""
    shape, sides = (1000, 800, 600), (50, 50, 50)
    first = np.array([[side.start for side in box] for box in itertools.islice(spread(shape, sides), 16)])
    assert (np.abs((first < np.divide(shape, 2)).sum(axis=0) - 8) <= 2).all()
    assert ((first < 50) | (first + 100 > shape)).any(axis=1).sum() <= 5
    gaps = np.linalg.norm(first[:, None] - first[None], axis=2)
    assert gaps[~np.eye(16, dtype=bool)].min() >= 150
