"""Read images and label maps in any known format, and write label maps."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import InputError
from lib.core.files import replacing

from .budget import memory_for
from .channel_files import ChannelFiles
from .crop import Crop
from .formats import FORMATS, ending_of, open_file
from .image_files import files_of
from .source import VolumeSource
from .volume import Affine, Geometry, LabelMap, Volume


def open_image(path: str | Path) -> VolumeSource:
    """Open an image: its file or, where it is stored by channel (``image_files``), all its files.

    Args:
        path: any of the image's files.

    Raises:
        InputError: as ``read_volume``, except for errors in the voxels.
    """
    sources = [_open_volume(file) for file in files_of(Path(path))]
    return sources[0] if len(sources) == 1 else ChannelFiles(sources)


def read_geometry(path: str | Path) -> Geometry:
    """Read an image's grid from the headers of its files.

    Args:
        path: any of the image's files.

    Raises:
        InputError: as ``open_image``.
    """
    return open_image(path).geometry


def read_volume(path: str | Path) -> Volume:
    """Read an image from its file or, where it is stored by channel, from all its files.

    Channels in separate files may have different data types; the array's type can represent them all.

    Args:
        path: any of the image's files, in a format of ``formats.FORMATS``.

    Returns:
        The image: its ``array`` (C, X, Y, Z) with the values as stored, and its ``affine`` from voxels to RAS mm.

    Raises:
        InputError: as ``read_file``; a channel's file is missing, exists twice, has several channels itself, or isn't
            on the grid of channel 0.

    Examples:
        A bright cell in noise, and where it truly is. The examples of the other functions use these files:

        >>> import nibabel, numpy as np
        >>> from lib.core.volumes.reading import read_volume, write_label_map
        >>> x, y, z = np.ogrid[:40, :40, :24]
        >>> cell = (x - 20) ** 2 + (y - 18) ** 2 + (2 * (z - 12)) ** 2 < 12**2
        >>> noise = np.random.default_rng(0).normal(0, 20, cell.shape)
        >>> image = (100 + 100 * cell + noise).astype(np.float32)
        >>> nibabel.save(nibabel.Nifti1Image(image, np.diag([0.5, 0.5, 1, 1])), "cell.nii.gz")

        >>> volume = read_volume("cell.nii.gz")
        >>> volume.array.shape, volume.spacing
        ((1, 40, 40, 24), (0.5, 0.5, 1.0))

        >>> write_label_map("truth.nii.gz", cell.astype(np.uint8), volume.affine)
    """
    return _read(open_image(path))


def read_file(path: str | Path, limit: int | None = None) -> Volume:
    """Read a volume from one file, in a format of ``formats.FORMATS``, with one or several channels.

    NaN is replaced by the least value of the channel; ``outside`` marks voxels that are NaN in every channel.

    Args:
        path: the file.
        limit: bytes of memory that reading it may take; None for what is free.

    Raises:
        InputError: no such file, unknown ending, damaged, 2-D, several points in time, complex, infinite values, a
            channel in which all values are NaN, impossible geometry, too large for the limit or the free memory.
    """
    return _read(_open_volume(Path(path)), limit)


def _open_volume(path: Path) -> VolumeSource:
    source = open_file(path)
    shape = source.geometry.shape
    if min(shape) < 2:
        raise InputError(
            f"{path}: a 2-D image (volume of shape {shape}); expected at least 2 voxels along each of 3 axes"
        )
    return source


def _read(source: VolumeSource, limit: int | None = None) -> Volume:
    """Read all voxels, if there is memory for them."""
    geometry = source.geometry
    with memory_for(source, limit):
        array = source.read()
        outside, notes = _without_nan(geometry.name, array, geometry.crop)
    return Volume(
        array,
        geometry.affine,
        geometry.slicer_affine,
        geometry.name,
        geometry.slicer_reverses,
        outside,
        (*source.notes, *notes),
        geometry.crop,
    )


def _without_nan(
    name: str, array: NDArray[Any], crop: Crop | None = None
) -> tuple[NDArray[np.bool_] | None, tuple[str, ...]]:
    """Replace NaN by each channel's least value, or by one that is as dark when it is scaled.

    Args:
        name: of the image, for messages.
        array: (C, X, Y, Z), changed in place.
        crop: the larger image that it is a box of, whose least value isn't known.

    Returns:
        (X, Y, Z) the voxels that were NaN in every channel, or None if there are none; and notes for a person.

    Raises:
        InputError: infinite values, or a channel in which all values are NaN.
    """
    if array.dtype.kind != "f" or all(np.isfinite(channel).all() for channel in array):
        return None, ()
    outside = np.ones(array.shape[1:], dtype=bool)
    for number, channel in enumerate(array):
        missing, infinite = np.isnan(channel), np.isinf(channel)
        if infinite.any():
            raise has_infinite_value(name, number, np.argwhere(infinite)[0])
        if missing.all() and not crop:
            raise is_nothing_but_nan(name, number)
        channel[missing] = _below(crop.ranges[number].low, channel.dtype) if crop else np.nanmin(channel)
        outside &= missing
    if not outside.any():
        return None, (f"{name}: values that are NaN in only some channels count as the least value of the channel",)
    return outside, (f"{name}: {np.count_nonzero(outside)} voxels are NaN and count as outside",)


def has_infinite_value(name: str, channel: int, voxel: Iterable[int]) -> InputError:
    """Return the error for an image with an infinite value at a voxel (x, y, z) of a channel."""
    return InputError(
        f"{name}: the value of voxel {tuple(map(int, voxel))} in channel {channel} is infinite; replace it and others "
        "like it by real numbers, e.g. 0"
    )


def is_nothing_but_nan(name: str, channel: int) -> InputError:
    """Return the error for an image with a channel in which all values are NaN."""
    return InputError(f"{name}: all values of channel {channel} are NaN; expected an image, export it again")


def _below(half: float, dtype: np.dtype[Any]) -> Any:
    """Return a value of a floating point type that is scaled to 0 by a ``Range`` with this ``low``."""
    return np.nextafter(dtype.type(2 * half), dtype.type(-np.inf))


def read_label_map(path: str | Path, limit: int | None = None) -> LabelMap:
    """Read a label map, in the formats of ``read_file``; floating point values must be whole numbers.

    Args:
        path: the file.
        limit: as in ``read_file``.

    Raises:
        InputError: as ``read_file``; several channels, values that are NaN, negative or not whole numbers.
    """
    source = _open_volume(Path(path))
    if source.geometry.channels != 1:
        raise InputError(
            f"{path}: {source.geometry.channels} channels; a label map has one, export the segments as one label map "
            "without overlaps"
        )
    volume = _read(source, limit)
    if volume.outside is not None:
        raise InputError(
            f"{path}: {np.count_nonzero(volume.outside)} values are NaN; expected label numbers 0, 1, 2, …; replace "
            "them by 0"
        )
    array = volume.array[0]
    if array.dtype.kind not in "iu":
        # A number too large for int64 changes in the conversion, and is refused like a fraction.
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
    """Write a label map in the format of the path's ending, renamed into place.

    Args:
        path: where to write.
        array: (X, Y, Z).
        affine: (4, 4) voxel to RAS mm.

    Raises:
        InputError: the ending is unknown, or such files can only be read.
    """
    path = Path(path)
    ending = ending_of(path)
    write = FORMATS[ending].write
    if write is None:
        written = ", ".join(ending for ending, known in FORMATS.items() if known.write)
        raise InputError(f"{path}: {ending} files can only be read; choose one of {written}")
    with replacing(path) as temporary:
        write(temporary, array, affine)
