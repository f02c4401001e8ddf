"""Slices with outlines: the image as a picture, and the outlines of classes as lines that any size shows sharply."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import approximate_polygon, find_contours

from .page import Shown

TOLERANCE = 0.2
"""How far outlines may be from the borders of voxels, in voxels: with fewer points, pages are smaller."""


@dataclass(frozen=True)
class Outline:
    """The outline of a class in a slice.

    Attributes:
        kind: ``paint`` or ``prediction``.
        name: of the class.
        colour: as ``#rrggbb``.
        path: closed lines as an SVG path, in voxels from the left and the top edge of the slice.
    """

    kind: str
    name: str
    colour: str
    path: str


@dataclass(frozen=True)
class OutlinedSlice:
    """A slice of an image with outlines on it.

    Attributes:
        shown: the image.
        rows, columns: size of the slice in voxels.
        outlines: those of all kinds and classes.
    """

    shown: Shown
    rows: int
    columns: int
    outlines: Sequence[Outline]


def outlines(
    planes: Mapping[str, NDArray[np.integer[Any]]], names: Sequence[str], table: NDArray[np.uint8]
) -> list[Outline]:
    """Return the outlines of all classes in a slice, in the order to draw them.

    Args:
        planes: (rows, columns) labels of each kind; 0 has no outline.
        names: of the classes 1, 2, ….
        table: colours by label, see ``colours``.
    """
    found = []
    for kind, plane in planes.items():
        sizes = {value: np.count_nonzero(plane == value) for value in range(1, len(names) + 1)}
        # Where one class lies within another, both have the same line. The inner one is drawn last, so it is seen.
        for value in sorted(filter(sizes.__getitem__, sizes), key=sizes.__getitem__, reverse=True):
            colour = "#" + bytes(table[value]).hex()
            found.append(Outline(kind, names[value - 1], colour, " ".join(_lines(plane == value))))
    return found


def _lines(mask: NDArray[np.bool_]) -> Iterator[str]:
    # Padded, lines at the edge of the slice are closed. The middle of a voxel is half a voxel from its edge.
    for line in find_contours(np.pad(mask, 1).astype(np.float32), 0.5):
        points = approximate_polygon(line, TOLERANCE) - 0.5
        yield "M" + "L".join(f"{column:.1f} {row:.1f}" for row, column in points[:-1]) + "Z"
