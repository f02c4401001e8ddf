"""Compare voxel grids, and bring a label map onto an image's grid."""

import itertools
import math
from typing import Any, NamedTuple

import nibabel
import numpy as np
from numpy.typing import NDArray

from lib.core.errors import InputError

from .volume import Affine, LabelMap, Placed, spacing_of

GRID_TOLERANCE = 0.1
"""Voxels by which the corners of two equal grids may differ, since files store positions in float32."""


def is_same_grid(one: Placed, other: Placed) -> bool:
    """Return whether each voxel has the same indices and, within ``GRID_TOLERANCE``, the same place in both grids."""
    if one.shape != other.shape:
        return False
    corners = _corners(one.shape)
    off = (np.linalg.inv(other.affine) @ one.affine - np.eye(4)) @ corners
    return bool(np.abs(off).max() <= GRID_TOLERANCE)


def describe_grid(shape: tuple[int, ...], affine: Affine) -> str:
    """Describe a grid for messages."""
    size = " × ".join(f"{size:.6g}" for size in spacing_of(affine))
    origin = ", ".join(f"{place:.6g}" for place in affine[:3, 3])
    towards = "".join(nibabel.aff2axcodes(affine))
    return f"shape {tuple(shape)}, voxel size {size} mm, origin ({origin}) mm RAS, axes towards {towards}"


def onto_grid(label: LabelMap, volume: Placed) -> NDArray[np.integer[Any]]:
    """Return a label map's values on the volume's own voxel grid, (X, Y, Z), with axes swapped and flipped as needed.

    Both must be the same grid in space. The order and direction of axes may differ: 3D Slicer flips left-handed images.
    If Slicer misreads the image (``slicer_affine``), a label map in that geometry is taken voxel by voxel. Nothing is
    ever interpolated.

    Raises:
        InputError: another shape or place in space.
    """
    return np.ascontiguousarray(_whole_place(label, volume).turn(label))


def check_on_grid(label: Placed, volume: Placed) -> None:
    """Refuse a label map that ``onto_grid`` would refuse, by its header alone.

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
    """Return a label map that covers a box of the volume's grid on the whole grid, (X, Y, Z), 0 outside the box.

    Unlike in ``onto_grid``, the label map may be smaller than the volume, since Slicer saves only the box that the
    segments need. It may also reach beyond the volume; values there are dropped.

    Raises:
        InputError: the label map's voxels don't coincide with voxels of the volume, or none of them is in the volume.
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
    """How an array lies on another grid: transpose it by ``order``, flip it, and put its first voxel at ``start``.

    Attributes:
        order: the array's axes in the order of the other grid's axes.
        flipped: axes to flip after transposing.
        start: index on the other grid of the array's first voxel, after transposing and flipping; it may lie outside.
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
    """Find how a label map lies on the volume's grid; None if they have no voxel in common."""
    found = [_place_on(volume.affine, label)]
    if volume.slicer_affine is not None:
        misread = _place_on(volume.slicer_affine, label)
        # Where Slicer loses the directions, it keeps the order of voxels.
        found.append(None if misread and misread.is_turned else misread)
    places = [place for place in found if place is not None and place.overlap(label, volume) > 0]
    # Of two that fit equally well, the one that needs no turn.
    return max(places, key=lambda place: (place.overlap(label, volume), not place.is_turned), default=None)


def _place_on(affine: Affine, label: LabelMap) -> _Place | None:
    """Find how a label map lies on the grid of an affine; None if its voxels don't coincide with the grid's."""
    to_new = np.linalg.inv(affine) @ label.affine
    exact = np.rint(to_new)
    matrix = exact[:3, :3]
    if not (np.abs(matrix).sum(axis=0) == 1).all() or not (np.abs(matrix).sum(axis=1) == 1).all():
        return None
    corners = _corners(label.array.shape)
    if np.abs((to_new - exact) @ corners).max() > GRID_TOLERANCE:
        return None
    start = (exact @ corners).min(axis=1)
    return _Place(
        tuple(int(axis) for axis in np.abs(matrix).argmax(axis=1)),
        tuple(axis for axis in range(3) if matrix[axis].sum() < 0),
        tuple(int(at) for at in start[:3]),
    )


def _corners(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return (4, 8): the homogeneous voxel indices of a grid's corner voxels."""
    return np.array([[*corner, 1] for corner in itertools.product(*[(0, n - 1) for n in shape])]).T
