"""Images and label maps from files, and label maps into files."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.core.device.memory import free_memory
from lib.core.errors import InputError
from lib.core.files import replacing

from .formats import Affine, Header, ending_of, read_header, read_voxels, write
from .image_files import files_of
from .volume import GRID_TOLERANCE, Geometry, LabelMap, Volume, describe_grid


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
                f"{path}: the channel ({describe_grid(header.shape, header.affine)}) does not lie on the grid of "
                f"{files[0]} ({describe_grid(headers[0].shape, headers[0].affine)}); resample it onto that grid, e.g. "
                "with 3D Slicer's Resample Scalar/Vector/DWI Volume"
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
