"""Volumes and label maps: reading them, where they lie in space, and their intensities.

Arrays are indexed by voxel in the order of the file, never reoriented; affines map voxel indices to RAS millimetres.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .files import replacing
from .formats import READERS, WRITERS, Affine, ending_of

GRID_TOLERANCE = 0.1
"""Voxels by which two grids may differ at their corners and still be the same: files keep positions in float32."""

INTENSITY_PERCENTILES = (0.5, 99.5)
"""Percentiles of a channel that become 0 and 1."""


@dataclass(frozen=True, eq=False)
class Volume:
    """An image.

    Attributes:
        array: (C, X, Y, Z), integers or floats as stored.
        affine: (4, 4) voxel to RAS mm.
        slicer_affine: (4, 4) the affine that 3D Slicer gives the image where it misreads it (NIfTI with channels last
            and no vector intent: voxel size and origin right, directions lost), else None.
        name: what messages call it: the file, where it came from one.
    """

    array: NDArray[Any]
    affine: Affine
    slicer_affine: Affine | None = None
    name: str = "the image"

    @property
    def channels(self) -> int:
        """C."""
        return int(self.array.shape[0])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(X, Y, Z)."""
        x, y, z = self.array.shape[1:]
        return x, y, z

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Size of a voxel along X, Y, Z in mm."""
        return _spacing(self.affine)


@dataclass(frozen=True, eq=False)
class LabelMap:
    """A map of integers at least 0.

    Attributes:
        array: (X, Y, Z), integers as stored (int64 where whole numbers were stored as floats).
        affine: (4, 4) voxel to RAS mm.
        name: what messages call it: the file, where it came from one.
    """

    array: NDArray[np.integer[Any]]
    affine: Affine
    name: str = "the label map"


def read_volume(path: str | Path) -> Volume:
    """Read an image: NIfTI (``.nii``, ``.nii.gz``) or NRRD (``.nrrd``), 3-D, with channels or RGB.

    Raises:
        InputError: no such file, unknown ending, damaged, 2-D, several points in time, complex, NaN or infinite
            values, impossible geometry.
    """
    path = Path(path)
    reader = READERS[ending_of(path)]
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    try:
        stored = reader(path)
    except InputError:
        raise
    # A damaged file makes the decoders raise errors of a dozen unrelated kinds.
    except Exception as error:
        raise InputError(
            f"{path}: cannot be read ({error}); the file is damaged or incomplete, copy or export it again"
        ) from error

    array = stored.array
    if min(array.shape[1:]) < 2:
        raise InputError(
            f"{path}: a 2-D image (volume of shape {array.shape[1:]}); expected at least 2 voxels along each of 3 axes"
        )
    if array.dtype.kind not in "iuf":
        raise InputError(f"{path}: values of type {array.dtype}; expected integers or real numbers, convert it")
    if array.dtype.kind == "f":
        strange = ~np.isfinite(array)
        if strange.any():
            channel, *voxel = (int(i) for i in np.argwhere(strange)[0])
            raise InputError(
                f"{path}: {int(strange.sum())} values are NaN or infinite (the first at voxel {tuple(voxel)}, channel "
                f"{channel}); replace them by real numbers, e.g. 0"
            )
    if not np.isfinite(stored.affine).all() or abs(np.linalg.det(stored.affine[:3, :3])) < np.finfo(np.float32).tiny:
        raise InputError(
            f"{path}: the affine {stored.affine[:3].tolist()} places no volume in space; expected a voxel size above 0 "
            f"along three different directions, correct the header"
        )
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return Volume(array, stored.affine, stored.slicer_affine, str(path))


def read_label_map(path: str | Path) -> LabelMap:
    """Read a label map, in the formats of ``read_volume``; floats are fine where they are whole numbers.

    Raises:
        InputError: as ``read_volume``; several channels, values that are negative or not whole numbers.
    """
    volume = read_volume(path)
    if volume.channels != 1:
        raise InputError(
            f"{path}: {volume.channels} channels; a label map has one, export the segments as one label map without "
            f"overlaps"
        )
    array = volume.array[0]
    if array.dtype.kind not in "iu":
        # A number too large for an integer becomes another one, and is refused like a fraction.
        with np.errstate(invalid="ignore"):
            whole = array.astype(np.int64)
        if (whole != array).any():
            value = array[whole != array].flat[0]
            raise InputError(f"{path}: the value {value} is not a whole number; expected label numbers 0, 1, 2, …")
        array = whole
    if array.min() < 0:
        raise InputError(f"{path}: the value {array.min()} is negative; expected label numbers 0, 1, 2, …")
    return LabelMap(array, volume.affine, volume.name)


def write_label_map(path: str | Path, array: NDArray[np.uint8], affine: Affine) -> None:
    """Write a map (X, Y, Z) as NIfTI or NRRD by the path's ending, renamed into place.

    Raises:
        InputError: unknown ending.
    """
    path = Path(path)
    writer = WRITERS[ending_of(path)]
    with replacing(path) as beside:
        writer(beside, array, affine)


def onto_grid(label: LabelMap, volume: Volume) -> NDArray[np.integer[Any]]:
    """Give a label map on the volume's own voxel grid, (X, Y, Z): its values with axes swapped and flipped.

    The two must be one grid in world coordinates, up to the order and direction of axes, as with left-handed images,
    which 3D Slicer flips. Where Slicer misreads the image (``slicer_affine``) a label map in that geometry
    is taken voxel by voxel. Nothing is ever interpolated.

    Raises:
        InputError: another shape or place in space.
    """
    turn = _turn(label.array.shape, label.affine, volume.shape, volume.affine)
    if turn != _NO_TURN and volume.slicer_affine is not None:
        # Tried before any real turn: Slicer keeps the order of voxels when it loses the directions.
        misread = _turn(label.array.shape, label.affine, volume.shape, volume.slicer_affine)
        turn = _NO_TURN if misread == _NO_TURN else turn
    if turn is None:
        raise InputError(
            f"{label.name}: the label map ({_describe(label.array.shape, label.affine)}) does not lie on the grid of "
            f"{volume.name} ({_describe(volume.shape, volume.affine)}); export the segmentation on the image's own grid"
        )
    order, flipped = turn
    return np.ascontiguousarray(np.flip(label.array.transpose(order), flipped))


_Turn = tuple[tuple[int, ...], tuple[int, ...]]
"""Axes of an array in a new order, and which of the new axes are then flipped."""

_NO_TURN: _Turn = ((0, 1, 2), ())


def _turn(shape: tuple[int, ...], affine: Affine, new_shape: tuple[int, ...], new_affine: Affine) -> _Turn | None:
    """Find how to turn an array so that each voxel keeps its place in space; None if the grids aren't the same."""
    to_new = np.linalg.inv(new_affine) @ affine
    matrix = np.rint(to_new[:3, :3])
    if not (np.abs(matrix).sum(axis=0) == 1).all() or not (np.abs(matrix).sum(axis=1) == 1).all():
        return None
    order = tuple(int(axis) for axis in np.abs(matrix).argmax(axis=1))
    flipped = tuple(axis for axis in range(3) if matrix[axis].sum() < 0)
    if tuple(shape[axis] for axis in order) != tuple(new_shape):
        return None

    exact = np.eye(4)
    exact[:3, :3] = matrix
    for axis in flipped:
        exact[axis, 3] = new_shape[axis] - 1
    corners = np.array([[*corner, 1] for corner in itertools.product(*[(0, n - 1) for n in shape])]).T
    off = np.abs((to_new - exact) @ corners).max()
    return (order, flipped) if off <= GRID_TOLERANCE else None


def _spacing(affine: Affine) -> tuple[float, float, float]:
    x, y, z = (float(size) for size in np.linalg.norm(affine[:3, :3], axis=0))
    return x, y, z


def _describe(shape: tuple[int, ...], affine: Affine) -> str:
    size = " × ".join(f"{size:.6g}" for size in _spacing(affine))
    origin = ", ".join(f"{place:.6g}" for place in affine[:3, 3])
    towards = "".join(nibabel.aff2axcodes(affine))
    return f"shape {tuple(shape)}, voxel size {size} mm, origin ({origin}) mm RAS, axes towards {towards}"


def scale_intensity(array: NDArray[Any]) -> NDArray[np.float32]:
    """Scale each channel so that its ``INTENSITY_PERCENTILES`` become 0 and 1, and clip what lies beyond.

    A channel that is constant between these percentiles (few bright voxels on an empty ground) is scaled by its least
    and greatest value; one that is constant throughout becomes 0.

    Args:
        array: (C, X, Y, Z), integers or floats.

    Returns:
        (C, X, Y, Z), values in [0, 1].
    """
    scaled = np.zeros(array.shape, dtype=np.float32)
    for channel, result in zip(array, scaled, strict=True):
        low, high = (float(value) for value in np.percentile(channel, INTENSITY_PERCENTILES))
        if low == high:
            low, high = float(channel.min()), float(channel.max())
        if low == high:
            continue
        # In double precision until the offset is gone, without a whole volume of doubles.
        np.subtract(channel, low, out=result, dtype=np.float64, casting="unsafe")
        np.divide(result, high - low, out=result)
        np.clip(result, 0, 1, out=result)
    return scaled
