"""The labelled voxels of an annotation: run lengths along each axis, and counts on each plane."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.core.labels import UNLABELLED

Flags = Sequence[NDArray[np.bool_]]
"""For each axis, a flag for each plane across it."""

VOXELS_PER_KEPT = 16
"""Labelled voxels are kept as indices if at most one voxel in this many is labelled. The indices then take about as
much memory as the annotation."""


class LabelledVoxels(NamedTuple):
    """The labelled voxels of one plane, sorted by row and column.

    Attributes:
        rows: (n,) row of each.
        columns: (n,) column of each.
        values: (n,) value of each, 1 … K+1.
    """

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    values: NDArray[np.uint8]


class Paint:
    """The labelled voxels of an annotation (X, Y, Z), plane by plane.

    It processes only labelled voxels, one plane at a time: sparse paint takes little time, and dense paint little
    memory. The planes lie across the axis with the largest stride.

    Attributes:
        axes: the annotation's axes by falling stride. All other attributes and results count axes in this order.
        shape: the annotation's shape.
    """

    def __init__(self, annotation: NDArray[np.uint8]) -> None:
        self.axes = sorted(range(3), key=lambda axis: -abs(annotation.strides[axis]))
        self._planes = annotation.transpose(self.axes)
        self.shape = self._planes.shape
        few = VOXELS_PER_KEPT * np.count_nonzero(annotation) <= annotation.size
        self._kept = list(map(_labelled, self._planes)) if few else None

    def planes(self) -> Iterator[LabelledVoxels]:
        """Yield the labelled voxels of each plane."""
        return map(_labelled, self._planes) if self._kept is None else iter(self._kept)

    def backwards(self) -> Iterator[LabelledVoxels]:
        """Yield the labelled voxels of each plane, from the last one to the first."""
        return map(_labelled, reversed(self._planes)) if self._kept is None else reversed(self._kept)

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
    return LabelledVoxels(rows, columns, plane[rows, columns])


def _counted_on(before: NDArray[np.int64], plane: LabelledVoxels) -> NDArray[np.int64]:
    """Return run lengths up to this plane: one more than on the plane before where it is labelled, else 0."""
    counts = np.zeros_like(before)
    counts[plane.rows, plane.columns] = before[plane.rows, plane.columns] + 1
    return counts


def _runs(lines: NDArray[np.intp], places: NDArray[np.intp]) -> NDArray[np.int64]:
    """Return, for voxels sorted by line and place, the length of each one's run of successive places on its line."""
    continues = (np.diff(places) == 1) & (np.diff(lines) == 0)
    starts = np.flatnonzero(np.concatenate([np.ones(min(1, len(lines)), dtype=bool), ~continues]))
    lengths = np.diff(starts, append=len(lines))
    return np.repeat(lengths, lengths)
