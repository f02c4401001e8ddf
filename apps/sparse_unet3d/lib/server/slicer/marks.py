"""Marks that show in 3D Slicer which slices to annotate, because its plugin can't jump to a slice."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from lib.core.annotation.slices import AnnotatedSlice

FRAME = 0.02
"""Width of the frame as a fraction of the shorter side of a slice; at least one voxel."""

HATCH = 0.125
"""Distance between hatch lines as a fraction of the shorter side of a slice; at least six voxels."""


def mark_slices(shape: Sequence[int], places: Iterable[AnnotatedSlice]) -> NDArray[np.uint8]:
    """Mark slices by a frame along their border and by thin diagonal lines, which leave the image visible.

    In the views across the other axes a marked slice shows as a dotted line.

    Args:
        shape: the volume in voxels, X, Y, Z.
        places: the slices.

    Returns:
        (X, Y, Z), 1 where a mark is, else 0.
    """
    marks = np.zeros(tuple(shape), dtype=np.uint8)
    for axis, index in places:
        plane = np.moveaxis(marks, axis, 0)[index]
        shorter = min(plane.shape)
        row, column = np.indices(plane.shape)
        to_border = np.minimum.reduce([row, column, plane.shape[0] - 1 - row, plane.shape[1] - 1 - column])
        frame = to_border < max(1, round(FRAME * shorter))
        hatch = (row + column) % max(6, round(HATCH * shorter)) == 0
        plane[frame | hatch] = 1
    return marks
