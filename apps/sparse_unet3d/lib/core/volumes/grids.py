"""Whether a label map lies on an image's grid, and its values there."""

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import InputError

from .formats import Affine
from .volume import GRID_TOLERANCE, LabelMap, Placed, describe_grid


def onto_grid(label: LabelMap, volume: Placed) -> NDArray[np.integer[Any]]:
    """Give a label map on the volume's own voxel grid, (X, Y, Z): its values with axes swapped and flipped.

    The two must be one grid in world coordinates, up to the order and direction of axes, as with left-handed images,
    which 3D Slicer flips. Where Slicer misreads the image (``slicer_affine``) a label map in that geometry
    is taken voxel by voxel. Nothing is ever interpolated.

    Raises:
        InputError: another shape or place in space.
    """
    return np.ascontiguousarray(_whole_place(label, volume).turn(label))


def check_on_grid(label: Placed, volume: Placed) -> None:
    """Refuse, by its headers, a label map that ``onto_grid`` would refuse.

    Raises:
        InputError: another shape or place in space.
    """
    _whole_place(LabelMap(np.broadcast_to(np.uint8(0), label.shape), label.affine, label.name), volume)


def _whole_place(label: LabelMap, volume: Placed) -> "_Place":
    place = _place(label, volume)
    if place is None or place.start != (0, 0, 0) or place.shape_of(label) != volume.shape:
        raise InputError(
            f"{label.name}: the label map ({describe_grid(label.array.shape, label.affine)}) does not lie on the grid "
            f"of {volume.name} ({describe_grid(volume.shape, volume.affine)}); export the segmentation on the image's "
            "own grid"
        )
    return place


def box_onto_grid(label: LabelMap, volume: Placed) -> NDArray[np.integer[Any]]:
    """Give a label map that covers a box of the volume's grid on the whole of it, (X, Y, Z), 0 beside the box.

    As ``onto_grid``, but the box may be smaller than the volume, as where Slicer saves no more than the segments need,
    and reach beyond it; what lies beyond is left out.

    Raises:
        InputError: the voxels of the box aren't some of the volume's, or none of them is.
    """
    place = _place(label, volume)
    if place is None:
        raise InputError(
            f"{label.name}: the segmentation ({describe_grid(label.array.shape, label.affine)}) does not lie on the "
            f"voxels of {volume.name} ({describe_grid(volume.shape, volume.affine)}); give the segmentation the "
            "geometry of the image in Slicer's Segment Editor (Specify geometry, the button beside the source volume)"
        )
    whole = np.zeros(volume.shape, dtype=label.array.dtype)
    to = tuple(slice(max(at, 0), at + n) for at, n in zip(place.start, place.shape_of(label), strict=True))
    of = tuple(slice(max(-at, 0), n - at) for at, n in zip(place.start, volume.shape, strict=True))
    whole[to] = place.turn(label)[of]
    return whole


class _Place(NamedTuple):
    """How an array lies on another grid.

    Attributes:
        order: its axes in the other grid's order.
        flipped: which of the axes are then flipped.
        start: where on the other grid its first voxel then is; it may be outside.
    """

    order: tuple[int, ...]
    flipped: tuple[int, ...]
    start: tuple[int, ...]

    @property
    def is_turned(self) -> bool:
        return (self.order, self.flipped) != ((0, 1, 2), ())

    def shape_of(self, label: LabelMap) -> tuple[int, ...]:
        return tuple(label.array.shape[axis] for axis in self.order)

    def turn(self, label: LabelMap) -> NDArray[np.integer[Any]]:
        return np.flip(label.array.transpose(self.order), self.flipped)

    def overlap(self, label: LabelMap, volume: Placed) -> int:
        """Count the voxels that the two have in common."""
        sizes = [
            max(0, min(at + n, whole) - max(at, 0))
            for at, n, whole in zip(self.start, self.shape_of(label), volume.shape, strict=True)
        ]
        return math.prod(sizes)


def _place(label: LabelMap, volume: Placed) -> _Place | None:
    """Find where a label map lies on the volume's grid; None if its voxels are none of the volume's."""
    found = [_place_on(volume.affine, label)]
    if volume.slicer_affine is not None:
        misread = _place_on(volume.slicer_affine, label)
        # Slicer keeps the order of voxels when it loses the directions.
        found.append(None if misread and misread.is_turned else misread)
    places = [place for place in found if place is not None and place.overlap(label, volume) > 0]
    # Where both fit alike, the one without a turn is meant.
    return max(places, key=lambda place: (place.overlap(label, volume), not place.is_turned), default=None)


def _place_on(affine: Affine, label: LabelMap) -> _Place | None:
    """Find how to turn a label map so that each voxel keeps its place in space; None if voxels don't meet voxels."""
    to_new = np.linalg.inv(affine) @ label.affine
    exact = np.rint(to_new)
    matrix = exact[:3, :3]
    if not (np.abs(matrix).sum(axis=0) == 1).all() or not (np.abs(matrix).sum(axis=1) == 1).all():
        return None
    last = [n - 1 for n in label.array.shape]
    corners = np.array([[*corner, 1] for corner in itertools.product(*[(0, n) for n in last])]).T
    if np.abs((to_new - exact) @ corners).max() > GRID_TOLERANCE:
        return None
    start = (exact @ corners).min(axis=1)
    return _Place(
        tuple(int(axis) for axis in np.abs(matrix).argmax(axis=1)),
        tuple(axis for axis in range(3) if matrix[axis].sum() < 0),
        tuple(int(at) for at in start[:3]),
    )
