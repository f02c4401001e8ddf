"""Sparse annotations: detect the slices that a person painted.

An annotation is a uint8 map (X, Y, Z): 0 unlabelled, 1 … K foreground classes, K+1 background. An annotated slice is a
plane (axis, index) that somebody painted. Nobody declares it; it is detected from the paint.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.core.labels import UNLABELLED, LabelScheme

from .paint import Flags, Paint

MIN_SLICE_VOXELS = 16
MIN_SLICE_FRACTION = 0.002
"""Least number of voxels, and least fraction of the plane, that lie in the plane of an annotated slice."""

THINNESS = 2
"""Paint lies in a plane if it reaches at least this many times as far along the plane as across it."""

MUCH_PAINT = 4
MOST_BEYOND = 0.4
"""Paint ends on a plane if the plane has at least 1/``MUCH_PAINT`` of the paint of the fullest plane, and a neighbour
has less than ``MOST_BEYOND`` of the plane's paint. Rounded structures end more slowly; crossing slices label less."""

Unpainted = Literal["unlabelled", "background"]
"""How unpainted voxels of slices painted as planes count. All other unpainted voxels are unlabelled."""


class AnnotatedSlice(NamedTuple):
    """The plane of all voxels whose coordinate along ``axis`` (0, 1, 2) is ``index``."""

    axis: int
    index: int  # type: ignore[assignment]  # hides the tuple method of that name, which nobody calls on a place


class Detected(NamedTuple):
    """What ``detect`` finds in an annotation.

    Attributes:
        slices: the annotated slices, sorted by axis and index.
        whole: the annotated slices that were painted as planes.
        stacked: axes across which neighbouring planes seem to have been painted.
        labelled: for each axis, the number of labelled voxels on each plane across it.
        voxels: (256,) number of voxels by value.
    """

    slices: list[AnnotatedSlice]
    whole: list[AnnotatedSlice]
    stacked: list[int]
    labelled: list[NDArray[np.int64]]
    voxels: NDArray[np.int64]


def annotated_slices(annotation: NDArray[np.uint8]) -> list[AnnotatedSlice]:
    """Detect the annotated slices, sorted by axis and index.

    A labelled voxel lies *in* the plane across an axis if its run of paint along that axis is at most half as long as
    each of its runs along the other axes, and as the volume is along that axis. Solid paint lies in no plane and
    reaches beyond the plane. Where annotated slices cross, paint looks solid; therefore voxels on annotated slices of
    other axes don't count. A plane is annotated if

    - enough voxels lie in it (``MIN_SLICE_VOXELS``, ``MIN_SLICE_FRACTION``), and no fewer than it has of solid paint;
    - or at least half of it is labelled, as in a dense annotation.

    Strokes of a few voxels and blobs from a sphere brush therefore form no annotated slice.

    Args:
        annotation: (X, Y, Z), 0 where unlabelled.
    """
    return detect(Paint(annotation)).slices


def whole_slices(annotation: NDArray[np.uint8]) -> list[AnnotatedSlice]:
    """Detect the annotated slices that were painted as planes, sorted by axis and index.

    If many slices across one axis are painted, planes across the other axes are labelled, too, although nobody looked
    at them. The unlabelled voxels of such planes say nothing. An annotated slice was painted as a plane if

    - enough voxels lie in it, and no fewer than it has voxels whose paint reaches beyond it. Voxels on slices of other
      axes don't count if those slices meet this rule with all their voxels;
    - or at least half of it is labelled, not counting voxels on slices of other axes that meet the first rule, and
      paint ends abruptly across this axis alone, as in a stack of slices but not in a box. If paint ends abruptly
      across no axis, all planes across this axis must be half labelled instead.

    Args:
        annotation: (X, Y, Z), 0 where unlabelled.
    """
    return detect(Paint(annotation)).whole


def detect(paint: Paint) -> Detected:
    """Find the annotated slices of an annotation, and which of them were painted as planes."""
    axes, shape, size = range(3), paint.shape, math.prod(paint.shape)
    marks = [_mark(runs, shape) for runs in paint.run_lengths()]
    nowhere = [np.zeros(length, dtype=bool) for length in shape]

    tables = (_LIES_IN, _SOLID_BEYOND, _BEYOND, _LABELLED)
    flat, solid_beyond, beyond, labelled = paint.count(marks, tables, nowhere)
    enough = [flat[axis] >= max(MIN_SLICE_VOXELS, MIN_SLICE_FRACTION * size / shape[axis]) for axis in axes]
    # First the slices that stand out by themselves; then, without the voxels on these, the slices that they cross.
    found = [enough[axis] & (flat[axis] >= solid_beyond[axis]) for axis in axes]
    (solid_beyond,) = paint.count(marks, [_SOLID_BEYOND], found)
    found = [enough[axis] & (flat[axis] >= solid_beyond[axis]) for axis in axes]
    (rest,) = paint.count(marks, [_LABELLED], found)
    dense = _half_labelled(rest, found)
    annotated = [found[axis] | dense[axis] for axis in axes]

    plain = [enough[axis] & (flat[axis] >= beyond[axis]) for axis in axes]
    flat, beyond = paint.count(marks, [_LIES_IN, _BEYOND], plain)
    whole = [
        flat[axis] >= np.maximum(max(MIN_SLICE_VOXELS, MIN_SLICE_FRACTION * area), beyond[axis])
        for axis, area in enumerate(_areas(plain))
    ]
    (rest,) = paint.count(marks, [_LABELLED], whole)
    dense = _half_labelled(rest, whole)
    ends = [_ends_on_plane(rest[axis]) for axis in axes]
    across = [sum(ends) == 1 if ends[axis] else not any(ends) and dense[axis].all() for axis in axes]
    whole = [(whole[axis] | (dense[axis] & across[axis])) & annotated[axis] for axis in axes]

    stacked = [ends[axis] if sum(ends) == 1 else bool(np.any(whole[axis][1:] & whole[axis][:-1])) for axis in axes]

    by_axis = dict(zip(paint.axes, labelled, strict=True))
    return Detected(
        _places(paint, annotated),
        _places(paint, whole),
        sorted(axis for axis, is_stacked in zip(paint.axes, stacked, strict=True) if is_stacked),
        [by_axis[axis] for axis in axes],
        paint.voxels(),
    )


# A labelled voxel's mark has bit ``axis`` if it lies in the plane across the axis, and bit 3 + ``axis`` if its paint
# reaches beyond that plane. Each table below has, for each axis, a flag for each mark: whether it is counted.
_MARKS = np.arange(64, dtype=np.uint8)
_LIES_IN = [(_MARKS >> axis & 1) == 1 for axis in range(3)]
_BEYOND = [(_MARKS >> (3 + axis) & 1 == 1) & ~_LIES_IN[axis] for axis in range(3)]
_SOLID_BEYOND = [_BEYOND[axis] & (_MARKS & 0b111 == 0) for axis in range(3)]
_LABELLED = [np.ones(64, dtype=bool)] * 3


def _mark(runs: Sequence[NDArray[np.int64]], shape: Sequence[int]) -> NDArray[np.uint8]:
    marks = np.zeros(len(runs[0]), dtype=np.uint8)
    for axis in range(3):
        shortest = np.minimum(np.minimum(*_others(runs, axis)), shape[axis])
        marks[runs[axis] <= shortest // THINNESS] |= np.uint8(1 << axis)
        marks[runs[axis] > 1] |= np.uint8(8 << axis)
    return marks


def _others(of_axes: Sequence[Any], axis: int) -> tuple[Any, Any]:
    first, second = (item for other, item in enumerate(of_axes) if other != axis)
    return first, second


def _areas(excluded: Flags) -> list[int]:
    """Return, for each axis, how many voxels of a plane across it are on no excluded plane across another axis."""
    free = [int(np.count_nonzero(~flags)) for flags in excluded]
    return [math.prod(_others(free, axis)) for axis in range(3)]


def _half_labelled(labelled: Sequence[NDArray[np.int64]], excluded: Flags) -> list[NDArray[np.bool_]]:
    """Return flags of the planes that are at least half labelled, not counting excluded planes across other axes."""
    return [(2 * labelled[axis] >= area) & (area > 0) for axis, area in enumerate(_areas(excluded))]


def _ends_on_plane(labelled: NDArray[np.int64]) -> bool:
    """Return whether a plane with much paint is next to one with far less, as at the end of a stack of slices."""
    more, less = np.maximum(labelled[1:], labelled[:-1]), np.minimum(labelled[1:], labelled[:-1])
    return bool(np.any((MUCH_PAINT * more >= labelled.max()) & (less < MOST_BEYOND * more)))


def _places(paint: Paint, flags: Flags) -> list[AnnotatedSlice]:
    planes = zip(paint.axes, flags, strict=True)
    return sorted(AnnotatedSlice(axis, int(index)) for axis, flag in planes for index in np.flatnonzero(flag))


def keep_slices(annotation: NDArray[np.uint8], slices: Iterable[AnnotatedSlice]) -> NDArray[np.uint8]:
    """Return an annotation (X, Y, Z) that keeps labels on the slices alone, to simulate sparse annotation."""
    kept = np.zeros_like(annotation)
    for axis, index in slices:
        np.moveaxis(kept, axis, 0)[index] = np.moveaxis(annotation, axis, 0)[index]
    return kept


def fill_unpainted(
    annotation: NDArray[np.uint8], slices: Iterable[AnnotatedSlice], scheme: LabelScheme
) -> NDArray[np.uint8]:
    """Return an annotation (X, Y, Z) in which unlabelled voxels of slices painted as planes are labelled background.

    Args:
        annotation: (X, Y, Z), as painted; a filled annotation would have more annotated slices.
        slices: slices to fill. Those that weren't painted as planes (``whole_slices``) stay as they are.
        scheme: the label scheme.
    """
    filled = annotation.copy()
    for axis, index in set(slices).intersection(whole_slices(annotation)):
        plane = np.moveaxis(filled, axis, 0)[index]
        plane[plane == UNLABELLED] = scheme.background_value
    return filled
