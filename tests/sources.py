"""Checks that a source of voxels reads what was written."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.core.volumes.source import Box, VolumeSource


def check_voxels(
    source: VolumeSource, path: Path, expected: NDArray[Any], boxes: Iterable[Box], most: float = math.inf
) -> None:
    """Check that all voxels, and those of boxes, are as expected (C, X, Y, Z), and take less than ``most`` bytes."""
    assert (source.geometry.channels, *source.geometry.shape) == expected.shape
    assert source.geometry.name == str(path)
    for box in (None, *boxes):
        found, place = source.read(box), (slice(None), *(box or ()))
        np.testing.assert_array_equal(found, expected[place])
        assert found.dtype == source.geometry.dtype == expected.dtype.newbyteorder("=")
        assert found.flags.c_contiguous
        assert 0 < source.working_memory(box) < most
