"""The labelled voxels of an annotation: run lengths along each axis, and counts on each plane."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.core.labels import UNLABELLED
from lib.core.volumes.source import Box

Flags = Sequence[NDArray[np.bool_]]
"""For each axis, a flag for each plane across it."""

Indices = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]
"""The indices of voxels along X, Y, Z."""

VOXELS_PER_KEPT = 16
"""Labelled voxels are kept as indices if at most one voxel in this many is labelled. The indices then take at
most about half as much memory as the annotation."""


class LabelledVoxels(NamedTuple):
    """The labelled voxels of one plane, sorted by row and column.

    Attributes:
        rows: (n,) row of each.
        columns: (n,) column of each.
        values: (n,) value of each, 1 … K+1.
    """

    rows: NDArray[np.int32]
    columns: NDArray[np.int32]
    values: NDArray[np.uint8]


class Paint:
    """The labelled voxels of an annotation (X, Y, Z), plane by plane.

    Sparse paint takes 9 bytes for each labelled voxel, whatever the size of the volume; dense paint takes the bytes of
    the annotation. Only labelled voxels are processed, one plane at a time: sparse paint takes little time, and dense
    paint little memory. The planes lie across the axis with the largest stride.

    Attributes:
        axes: the annotation's axes by falling stride. Attributes and results of this class count axes in this order,
            unless they are said to be along X, Y, Z.
        shape: the annotation's shape.
        volume_shape: its shape along X, Y, Z.
        labelled: number of labelled voxels.
    """

    def __init__(self, annotation: NDArray[np.uint8]) -> None:
        """Take an annotation (X, Y, Z), which must not change afterwards."""
        self.axes = sorted(range(3), key=lambda axis: -abs(annotation.strides[axis]))
        # Where X, Y, Z are among these axes
        self._back = [self.axes.index(axis) for axis in range(3)]
        planes = annotation.transpose(self.axes)
        self.shape = planes.shape
        x, y, z = annotation.shape
        self.volume_shape = x, y, z
        self.labelled = int(np.count_nonzero(annotation))
        few = VOXELS_PER_KEPT * self.labelled <= annotation.size
        # One of them has the paint.
        self._dense = None if few else planes
        self._kept = list(map(_labelled, planes)) if few else []

    def where(self, keep: Callable[[Sequence[Any]], NDArray[np.bool_]]) -> "Paint":
        """Return the paint on some of the labelled voxels.

        Args:
            keep: returns a flag for each of some voxels, given their indices along X, Y, Z: arrays, or single numbers
                for all, which broadcast against each other.
        """

        def flags(*along: Any) -> NDArray[np.bool_]:
            return keep([along[axis] for axis in self._back])

        if self._dense is not None:
            array = np.empty(self.shape, dtype=np.uint8)
            rows, columns = np.ogrid[: self.shape[1], : self.shape[2]]
            for index, (plane, kept) in enumerate(zip(self._dense, array, strict=True)):
                np.multiply(plane, flags(index, rows, columns), out=kept)
            return Paint(array.transpose(self._back))
        result = copy.copy(self)
        result._kept = []
        for index, (rows, columns, values) in enumerate(self._kept):
            inside = np.broadcast_to(flags(index, rows, columns), values.shape)
            result._kept.append(LabelledVoxels(rows[inside], columns[inside], values[inside]))
        result.labelled = sum(len(plane.values) for plane in result._kept)
        return result

    def array(self, box: Box | None = None) -> NDArray[np.uint8]:
        """Return the annotation of a box (X, Y, Z), or of the whole volume, 0 where it is unlabelled.

        Args:
            box: start and stop along X, Y, Z.
        """
        sides = [slice(0, size) for size in self.volume_shape] if box is None else list(box)
        planes, rows, columns = (sides[axis] for axis in self.axes)
        if self._dense is not None:
            return self._dense[planes, rows, columns].transpose(self._back)
        kept = [_cut(plane, rows, columns) for plane in self._kept[planes]]
        shape = (planes.stop - planes.start, rows.stop - rows.start, columns.stop - columns.start)
        return _drawn(kept, shape).transpose(self._back)

    def places(self) -> tuple[Indices, NDArray[np.uint8]]:
        """Return the indices of all labelled voxels along X, Y, Z, each (n,), and their values (n,)."""
        found = [(np.full_like(plane.rows, index), *plane) for index, plane in enumerate(self.planes())]
        *along, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
        x, y, z = (along[axis] for axis in self._back)
        return (x, y, z), values

    def voxels(self) -> NDArray[np.int64]:
        """Return (256,): the number of voxels by value, those of unlabelled ones included."""
        counts = np.zeros(256, dtype=np.int64)
        values = (plane.values for plane in self._kept) if self._dense is None else (p.ravel() for p in self._dense)
        for of_plane in values:
            counts += np.bincount(of_plane, minlength=256)
        counts[UNLABELLED] = math.prod(self.shape) - self.labelled
        return counts

    def planes(self) -> Iterator[LabelledVoxels]:
        """Yield the labelled voxels of each plane."""
        return iter(self._kept) if self._dense is None else map(_labelled, self._dense)

    def backwards(self) -> Iterator[LabelledVoxels]:
        """Yield the labelled voxels of each plane, from the last one to the first."""
        return reversed(self._kept) if self._dense is None else map(_labelled, reversed(self._dense))

    def run_lengths(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
        """Yield, for each plane, the length of the run of paint through each labelled voxel along each axis."""
        length, rows, columns = self.shape
        # The distance from each voxel to the end of its run, in two bytes for most volumes.
        ahead: list[NDArray[np.unsignedinteger[Any]]] = []
        counts = np.zeros((rows, columns), dtype=np.int64)
        for plane in self.backwards():
            counts = _counted_on(counts, plane)
            ahead.append(counts[plane.rows, plane.columns].astype(np.min_scalar_type(length)))
        counts = np.zeros((rows, columns), dtype=np.int64)
        for plane in self.planes():
            counts = _counted_on(counts, plane)
            across = counts[plane.rows, plane.columns] + ahead.pop() - 1
            # numpy sorts short integers in linear time.
            order = np.argsort(plane.columns.astype(np.min_scalar_type(columns)), kind="stable")
            along_columns = np.empty_like(across)
            along_columns[order] = _runs(plane.columns[order], plane.rows[order])
            yield across, along_columns, _runs(plane.rows, plane.columns)

    def count(
        self, marks: Sequence[NDArray[np.uint8]], tables: Sequence[Flags], excluded: Flags
    ) -> list[list[NDArray[np.int64]]]:
        """Count marked voxels on the planes across each axis, except for those on excluded planes across other axes.

        Args:
            marks: for each plane, the mark of each labelled voxel.
            tables: what to count. Each table has, for each axis, a flag for each mark.
            excluded: flags of the excluded planes.

        Returns:
            For each table and each axis, the count on each plane.
        """
        free = [~flags for flags in excluded]
        counts = [[np.zeros(length, dtype=np.int64) for length in self.shape] for _ in tables]
        for index, (plane, mark) in enumerate(zip(self.planes(), marks, strict=True)):
            if len(mark) == 0:
                continue
            row_free, column_free = free[1][plane.rows], free[2][plane.columns]
            for table, (across, by_row, by_column) in zip(tables, counts, strict=True):
                across[index] = np.count_nonzero(table[0][mark] & row_free & column_free)
                if free[0][index]:
                    by_row += np.bincount(plane.rows[table[1][mark] & column_free], minlength=len(by_row))
                    by_column += np.bincount(plane.columns[table[2][mark] & row_free], minlength=len(by_column))
        return counts


def _labelled(plane: NDArray[np.uint8]) -> LabelledVoxels:
    places = np.flatnonzero(plane != UNLABELLED)
    rows = places // plane.shape[1]
    columns = places - rows * plane.shape[1]
    return LabelledVoxels(rows.astype(np.int32), columns.astype(np.int32), plane[rows, columns])


def _cut(plane: LabelledVoxels, rows: slice, columns: slice) -> LabelledVoxels:
    """Return the labelled voxels of some rows and columns of a plane, which they are counted from."""
    first, stop = np.searchsorted(plane.rows, [rows.start, rows.stop])
    of_rows = plane.columns[first:stop]
    inside = (of_rows >= columns.start) & (of_rows < columns.stop)
    return LabelledVoxels(
        plane.rows[first:stop][inside] - np.int32(rows.start),
        of_rows[inside] - np.int32(columns.start),
        plane.values[first:stop][inside],
    )


def _drawn(planes: Sequence[LabelledVoxels], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return labelled voxels as an array of a shape (planes, rows, columns)."""
    array = np.zeros(shape, dtype=np.uint8)
    for values, plane in zip(array, planes, strict=True):
        values[plane.rows, plane.columns] = plane.values
    return array


def _counted_on(before: NDArray[np.int64], plane: LabelledVoxels) -> NDArray[np.int64]:
    """Return run lengths up to this plane: one more than on the plane before where it is labelled, else 0."""
    counts = np.zeros_like(before)
    counts[plane.rows, plane.columns] = before[plane.rows, plane.columns] + 1
    return counts


def _runs(lines: NDArray[np.int32], places: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return, for voxels sorted by line and place, the length of each one's run of successive places on its line."""
    continues = (np.diff(places) == 1) & (np.diff(lines) == 0)
    starts = np.flatnonzero(np.concatenate([np.ones(min(1, len(lines)), dtype=bool), ~continues]))
    lengths = np.diff(starts, append=len(lines))
    return np.repeat(lengths, lengths)
