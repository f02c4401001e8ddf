"""Sparse annotations: which slices a person painted.

An annotation is a uint8 map (X, Y, Z): 0 unlabelled, 1 … K foreground classes, K+1 background. An annotated slice is a
plane (axis, index) on which somebody painted; it is detected from the paint, nobody declares it.
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
"""An annotated slice has at least this many voxels of paint that lies in its plane, and this part of the plane."""

THINNESS = 2
"""Paint lies in a plane where it reaches at least this many times farther along the plane than across."""

MUCH_PAINT = 4
MOST_BEYOND = 0.4
"""Paint ends on a plane that has one in so many of the voxels on the plane with most paint, if the next one has less
than that part of it: rounded structures end more slowly, and slices that cross seldom label more."""

Unpainted = Literal["unlabelled", "background"]
"""What unpainted voxels in slices painted as planes count as; all other unpainted voxels are always unlabelled."""


class AnnotatedSlice(NamedTuple):
    """The plane of all voxels whose coordinate along ``axis`` (0, 1, 2) is ``index``."""

    axis: int
    index: int  # type: ignore[assignment]  # hides the tuple method of that name, which nobody calls on a place


class Detected(NamedTuple):
    """What is found in an annotation.

    Attributes:
        slices: the annotated slices, sorted by axis and index.
        whole: those of them that were painted as planes.
        stacked: axes across which neighbouring planes were painted, as far as that can be told.
        labelled: the labelled voxels on the planes across each axis.
        voxels: labelled voxels by value, 0 for the unlabelled ones.
    """

    slices: list[AnnotatedSlice]
    whole: list[AnnotatedSlice]
    stacked: list[int]
    labelled: list[NDArray[np.int64]]
    voxels: NDArray[np.int64]


def annotated_slices(annotation: NDArray[np.uint8]) -> list[AnnotatedSlice]:
    """Detect the annotated slices, sorted by axis and index.

    A labelled voxel lies *in* the planes across an axis if the unbroken paint along that axis is at most half as long
    as along either other axis, and as the volume. A plane is annotated

    - if enough voxels lie in it (``MIN_SLICE_VOXELS``, ``MIN_SLICE_FRACTION``), at least as many as there are voxels
      of solid paint on it (paint that lies in no plane and reaches beyond this one). Where annotated slices cross,
      paint looks solid, so what lies on slices of other axes doesn't count;
    - or if at least half of it is labelled, again beside the slices of other axes: dense annotation.

    So strokes of a few voxels and blobs painted with a sphere brush make no annotated slice.

    Args:
        annotation: (X, Y, Z), 0 where unlabelled.
    """
    return detect(annotation).slices


def whole_slices(annotation: NDArray[np.uint8]) -> list[AnnotatedSlice]:
    """Detect the annotated slices that were painted as planes, sorted by axis and index.

    Where many slices of one axis are painted, planes across the others are labelled, too, without anybody having
    looked at them; what is unlabelled there tells nothing. An annotated slice was painted as a plane

    - if at least as many voxels lie in it as there are voxels of paint that reaches beyond it, and enough of them are
      beside the slices of other axes for which that holds without looking beside any;
    - or if at least half of it is labelled beside those, and either this is the only axis across which paint ends on
      a plane at once, as a stack of slices does and a box doesn't, or there is no such axis and all planes across
      this one are half labelled.

    Args:
        annotation: (X, Y, Z), 0 where unlabelled.
    """
    return detect(annotation).whole


def detect(annotation: NDArray[np.uint8]) -> Detected:
    """Find the annotated slices of an annotation (X, Y, Z), and those painted as planes; see the functions above."""
    paint, axes = Paint(annotation), range(3)
    shape, size = paint.shape, annotation.size
    marks = [_mark(runs, shape) for runs in paint.run_lengths()]
    nowhere = [np.zeros(length, dtype=bool) for length in shape]

    tables = (_LIES_IN, _SOLID_BEYOND, _BEYOND, _LABELLED)
    flat, solid_beyond, beyond, labelled = paint.count(marks, tables, nowhere)
    enough = [flat[axis] >= max(MIN_SLICE_VOXELS, MIN_SLICE_FRACTION * size / shape[axis]) for axis in axes]
    # First the slices that are plain without knowing any other, then those which others cross again and again.
    found = [enough[axis] & (flat[axis] >= solid_beyond[axis]) for axis in axes]
    (solid_beyond,) = paint.count(marks, [_SOLID_BEYOND], found)
    found = [enough[axis] & (flat[axis] >= solid_beyond[axis]) for axis in axes]
    (beside,) = paint.count(marks, [_LABELLED], found)
    dense = _half_labelled(beside, found)
    annotated = [found[axis] | dense[axis] for axis in axes]

    plain = [enough[axis] & (flat[axis] >= beyond[axis]) for axis in axes]
    flat, beyond = paint.count(marks, [_LIES_IN, _BEYOND], plain)
    whole = [
        flat[axis] >= np.maximum(max(MIN_SLICE_VOXELS, MIN_SLICE_FRACTION * area), beyond[axis])
        for axis, area in enumerate(_areas(plain))
    ]
    (beside,) = paint.count(marks, [_LABELLED], whole)
    dense = _half_labelled(beside, whole)
    ends = [_ends_on_plane(beside[axis]) for axis in axes]
    across = [sum(ends) == 1 if ends[axis] else not any(ends) and dense[axis].all() for axis in axes]
    whole = [(whole[axis] | (dense[axis] & across[axis])) & annotated[axis] for axis in axes]

    stacked = [ends[axis] if sum(ends) == 1 else bool(np.any(whole[axis][1:] & whole[axis][:-1])) for axis in axes]

    voxels = np.zeros(256, dtype=np.int64)
    for plane in paint.planes():
        voxels += np.bincount(plane.values, minlength=256)
    voxels[UNLABELLED] = size - voxels.sum()
    by_axis = dict(zip(paint.axes, labelled, strict=True))
    return Detected(
        _places(paint, annotated),
        _places(paint, whole),
        sorted(axis for axis, is_stacked in zip(paint.axes, stacked, strict=True) if is_stacked),
        [by_axis[axis] for axis in axes],
        voxels,
    )


# A labelled voxel's mark: bit ``axis`` if it lies in the plane across the axis, bit 3 + ``axis`` if the paint reaches
# beyond that plane. Each of the tables below says for each axis which marks are counted.
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


def _areas(beside: Flags) -> list[int]:
    """Return how many voxels of a plane across each axis are beside the flagged planes across the others."""
    free = [int(np.count_nonzero(~flags)) for flags in beside]
    return [math.prod(_others(free, axis)) for axis in range(3)]


def _half_labelled(labelled: Sequence[NDArray[np.int64]], beside: Flags) -> list[NDArray[np.bool_]]:
    """Flag the planes at least half of which is labelled, beside the flagged ones across other axes."""
    return [(2 * labelled[axis] >= area) & (area > 0) for axis, area in enumerate(_areas(beside))]


def _ends_on_plane(labelled: NDArray[np.int64]) -> bool:
    """Tell whether a plane with a good deal of paint is next to one with far less, as where slices cross."""
    more, less = np.maximum(labelled[1:], labelled[:-1]), np.minimum(labelled[1:], labelled[:-1])
    return bool(np.any((MUCH_PAINT * more >= labelled.max()) & (less < MOST_BEYOND * more)))


def _places(paint: Paint, flags: Flags) -> list[AnnotatedSlice]:
    planes = zip(paint.axes, flags, strict=True)
    return sorted(AnnotatedSlice(axis, int(index)) for axis, flag in planes for index in np.flatnonzero(flag))


def keep_slices(annotation: NDArray[np.uint8], slices: Iterable[AnnotatedSlice]) -> NDArray[np.uint8]:
    """Copy an annotation (X, Y, Z), unlabelled everywhere but on the slices: simulates sparse annotation."""
    kept = np.zeros_like(annotation)
    for axis, index in slices:
        np.moveaxis(kept, axis, 0)[index] = np.moveaxis(annotation, axis, 0)[index]
    return kept


def fill_unpainted(
    annotation: NDArray[np.uint8], slices: Iterable[AnnotatedSlice], scheme: LabelScheme
) -> NDArray[np.uint8]:
    """Copy an annotation (X, Y, Z), with the unlabelled voxels on slices painted as planes labelled as background.

    The slices are those detected in what was painted: in a filled annotation more would be found. Those that weren't
    painted as planes (``whole_slices``) stay as they are.
    """
    filled = annotation.copy()
    for axis, index in set(slices).intersection(whole_slices(annotation)):
        plane = np.moveaxis(filled, axis, 0)[index]
        plane[plane == UNLABELLED] = scheme.background_value
    return filled
