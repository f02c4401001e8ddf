"""Volumes and label maps: reading them, and where they lie in space.

Arrays are indexed by voxel in the order of the file, never reoriented; affines map voxel indices to RAS millimetres.
"""

import itertools
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import nibabel
import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .files import replacing
from .formats import Affine, Header, ending_of, read_header, read_voxels, write
from .image_files import files_of
from .memory import free_memory

GRID_TOLERANCE = 0.1
"""Voxels by which two grids may differ at their corners and still be the same: files keep positions in float32."""


class Placed(Protocol):
    """What has a voxel grid in space: an image's ``Geometry``, or the ``Volume`` itself."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(X, Y, Z)."""

    @property
    def affine(self) -> Affine:
        """(4, 4) voxel to RAS mm."""

    @property
    def slicer_affine(self) -> Affine | None:
        """(4, 4) the affine that 3D Slicer gives the image where it misreads it, else None."""

    @property
    def slicer_reverses(self) -> bool:
        """Whether Slicer numbers the slices along Z from the other end."""

    @property
    def name(self) -> str:
        """What messages call it."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """What an image's headers say: its grid, without any voxel.

    Attributes:
        shape: (X, Y, Z).
        affine: (4, 4) voxel to RAS mm.
        channels: how many there are.
        dtype: the type of numbers that the image's array will have.
        slicer_affine, name, slicer_reverses: as in ``Volume``.
    """

    shape: tuple[int, int, int]
    affine: Affine
    channels: int
    dtype: np.dtype[Any]
    slicer_affine: Affine | None = None
    name: str = "the image"
    slicer_reverses: bool = False

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Size of a voxel along X, Y, Z in mm."""
        return _spacing(self.affine)

    def slice_from_slicer(self, k: int) -> int:
        """Return the index along Z of the slice that 3D Slicer calls ``k``; both count from 0."""
        return self.shape[2] - 1 - k if self.slicer_reverses else k


@dataclass(frozen=True, eq=False)
class Volume:
    """An image.

    Attributes:
        array: (C, X, Y, Z), integers or finite floats as stored.
        affine: (4, 4) voxel to RAS mm.
        slicer_affine: (4, 4) the affine that 3D Slicer gives the image where it misreads it (NIfTI with channels last
            and no vector intent: voxel size and origin right, directions lost), else None.
        name: what messages call it: the file, where it came from one.
        slicer_reverses: whether Slicer numbers the slices along Z from the other end, as in most left-handed files.
        outside: (X, Y, Z) the voxels that are NaN in every channel of the file, or None where there are none.
        notes: what a person should be told about the file.
    """

    array: NDArray[Any]
    affine: Affine
    slicer_affine: Affine | None = None
    name: str = "the image"
    slicer_reverses: bool = False
    outside: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()

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
    def geometry(self) -> Geometry:
        """All but the voxels."""
        return Geometry(
            self.shape,
            self.affine,
            self.channels,
            self.array.dtype,
            self.slicer_affine,
            self.name,
            self.slicer_reverses,
        )

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Size of a voxel along X, Y, Z in mm."""
        return _spacing(self.affine)

    def slice_from_slicer(self, k: int) -> int:
        """Return the index along Z of the slice that 3D Slicer calls ``k``; both count from 0."""
        return self.geometry.slice_from_slicer(k)


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


def read_geometry(path: str | Path) -> Geometry:
    """Read an image's grid from the header of its file or, where it is stored by channel, of all its files.

    Args:
        path: any of the image's files.

    Raises:
        InputError: as ``read_volume``, but for what is wrong with the voxels.
    """
    return _geometry(*_headers(files_of(Path(path))))


def read_volume(path: str | Path) -> Volume:
    """Read an image from its file or, where it is stored by channel (``image_files``), from all its files.

    Channels in files of their own may have different types of numbers; the array has one that holds them all.

    Args:
        path: any of the image's files.

    Raises:
        InputError: as ``read_file``; a channel's file is missing, there twice, has several channels itself, or lies on
            another grid than that of channel 0.
    """
    return _read(*_headers(files_of(Path(path))))


def read_file(path: str | Path) -> Volume:
    """Read a volume from one file: NIfTI (``.nii``, ``.nii.gz``), NRRD (``.nrrd``) or MetaImage (``.mha``).

    It may have channels or be RGB. Voxels that are NaN get the least value of their channel; ``outside`` and ``notes``
    tell of them.

    Raises:
        InputError: no such file, unknown ending, damaged, 2-D, several points in time, complex, infinite values or a
            channel of NaN alone, impossible geometry, too large for the free memory.
    """
    return _read(*_headers([Path(path)]))


def _headers(files: Sequence[Path]) -> tuple[Sequence[Path], list[Header]]:
    """Read the headers of an image's files, and check that they make up one image."""
    headers = [read_header(path) for path in files]
    for path, header in zip(files, headers, strict=True):
        if min(header.shape) < 2:
            raise InputError(
                f"{path}: a 2-D image (volume of shape {header.shape}); expected at least 2 voxels along each of 3 axes"
            )
        if len(files) == 1:
            break
        if header.channels != 1:
            raise InputError(
                f"{path}: {header.channels} channels, but {files[0].name} to {files[-1].name} are one each; "
                "expected one channel in each of these files, or all channels in one file without a number"
            )
        if not _is_same_grid(header, headers[0]):
            raise InputError(
                f"{path}: the channel ({_describe(header.shape, header.affine)}) does not lie on the grid of "
                f"{files[0]} ({_describe(headers[0].shape, headers[0].affine)}); resample it onto that grid, e.g. with "
                "3D Slicer's Resample Scalar/Vector/DWI Volume"
            )
    return files, headers


def _geometry(files: Sequence[Path], headers: Sequence[Header]) -> Geometry:
    first = headers[0]
    return Geometry(
        first.shape,
        first.affine,
        sum(header.channels for header in headers),
        np.result_type(*(header.dtype for header in headers)),
        first.slicer_affine,
        str(files[0]),
        first.slicer_reverses,
    )


def _read(files: Sequence[Path], headers: Sequence[Header]) -> Volume:
    """Read the voxels of an image whose headers were read."""
    geometry = _geometry(files, headers)
    # The file that is being read is in memory twice.
    needed = sum(header.bytes for header in headers) + max(header.bytes for header in headers)
    free = free_memory()
    too_large = (
        f"{geometry.name}: the volume (shape {geometry.shape}, {geometry.channels} channels of {geometry.dtype}) needs "
        f"{needed / 1e9:.1f} GB of memory to be read, and {free / 1e9:.1f} GB are free; close other programs, use a "
        "computer with more memory, or make the volume smaller, e.g. with 3D Slicer's Crop Volume"
    )
    if needed > free:
        raise InputError(too_large)
    try:
        array = np.empty((geometry.channels, *geometry.shape), geometry.dtype)
        start = 0
        for path, header in zip(files, headers, strict=True):
            read_voxels(path, header, array[start : start + header.channels])
            start += header.channels
        outside, notes = _without_nan(geometry.name, array)
    except MemoryError as error:
        raise InputError(too_large) from error
    return Volume(
        array, geometry.affine, geometry.slicer_affine, geometry.name, geometry.slicer_reverses, outside, notes
    )


def _without_nan(name: str, array: NDArray[Any]) -> tuple[NDArray[np.bool_] | None, tuple[str, ...]]:
    """Put each channel's least value in place of NaN.

    Args:
        name: of the image, for messages.
        array: (C, X, Y, Z), changed in place.

    Returns:
        (X, Y, Z) the voxels that were NaN in every channel, or None if there are none; and what to say of them.

    Raises:
        InputError: infinite values, or no other value in a channel.
    """
    if array.dtype.kind != "f" or all(np.isfinite(channel).all() for channel in array):
        return None, ()
    outside = np.ones(array.shape[1:], dtype=bool)
    for number, channel in enumerate(array):
        missing, infinite = np.isnan(channel), np.isinf(channel)
        if infinite.any():
            voxel = tuple(int(i) for i in np.argwhere(infinite)[0])
            raise InputError(
                f"{name}: {np.count_nonzero(infinite)} values are infinite (the first at voxel {voxel}, channel "
                f"{number}); replace them by real numbers, e.g. 0"
            )
        if missing.all():
            raise InputError(f"{name}: all values of channel {number} are NaN; expected an image, export it again")
        channel[missing] = np.nanmin(channel)
        outside &= missing
    if not outside.any():
        return None, (f"{name}: where some of the channels are NaN, these count as the least value of the channel",)
    return outside, (f"{name}: {np.count_nonzero(outside)} voxels are NaN and count as outside",)


def _is_same_grid(one: Header, other: Header) -> bool:
    """Tell whether each voxel has the same indices and, within the tolerance, the same place in both."""
    if one.shape != other.shape:
        return False
    corners = np.array([[*corner, 1] for corner in itertools.product(*[(0, n - 1) for n in one.shape])]).T
    off = (np.linalg.inv(other.affine) @ one.affine - np.eye(4)) @ corners
    return bool(np.abs(off).max() <= GRID_TOLERANCE)


def read_label_map(path: str | Path) -> LabelMap:
    """Read a label map, in the formats of ``read_file``; floats are fine where they are whole numbers.

    Raises:
        InputError: as ``read_file``; several channels, values that are NaN, negative or not whole numbers.
    """
    volume = read_file(path)
    if volume.outside is not None:
        raise InputError(
            f"{path}: {np.count_nonzero(volume.outside)} values are NaN; expected label numbers 0, 1, 2, …; replace "
            "them by 0"
        )
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
    """Write a map (X, Y, Z) in the format of the path's ending, renamed into place.

    Raises:
        InputError: unknown ending.
    """
    path = Path(path)
    ending_of(path)
    with replacing(path) as beside:
        write(beside, array, affine)


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
            f"{label.name}: the label map ({_describe(label.array.shape, label.affine)}) does not lie on the grid of "
            f"{volume.name} ({_describe(volume.shape, volume.affine)}); export the segmentation on the image's own grid"
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
            f"{label.name}: the segmentation ({_describe(label.array.shape, label.affine)}) does not lie on the voxels "
            f"of {volume.name} ({_describe(volume.shape, volume.affine)}); give the segmentation the geometry of the "
            "image in Slicer's Segment Editor (Specify geometry, the button beside the source volume)"
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


def _spacing(affine: Affine) -> tuple[float, float, float]:
    x, y, z = (float(size) for size in np.linalg.norm(affine[:3, :3], axis=0))
    return x, y, z


def _describe(shape: tuple[int, ...], affine: Affine) -> str:
    size = " × ".join(f"{size:.6g}" for size in _spacing(affine))
    origin = ", ".join(f"{place:.6g}" for place in affine[:3, 3])
    towards = "".join(nibabel.aff2axcodes(affine))
    return f"shape {tuple(shape)}, voxel size {size} mm, origin ({origin}) mm RAS, axes towards {towards}"


def checksum(volume: Volume) -> int:
    """Return a number that tells an image from another one that came in its place."""
    return zlib.crc32(np.ascontiguousarray(volume.array).data, zlib.crc32(volume.affine.tobytes()))
