"""ND2 files (``.nd2``), by Nikon's microscopes, as NIS-Elements writes them since version 3."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import InputError

from .file_checks import MAX_RATIO, read_compressed, read_stored
from .named_images import NamedImage, image_named, named_images
from .nd2_file import Recording, opened
from .source import Box, shape_of_box
from .volume import LPS_TO_RAS, Geometry
from .voxel_order import BLOCK, copy_voxels
from .voxel_size import note_without_metadata, size_without_metadata

_HEADER = struct.Struct("<IIQ")
"""Of a chunk: a magic number, the bytes of its name, and those of its content."""

_MAGIC = 0x0ABECEDA

_BEFORE = 8
"""Bytes of a plane's content before its voxels: the time."""


class Nd2Source:
    """One image of an ND2 file: at one position of the stage and one point in time.

    Attributes:
        geometry: the axes of voxels go along LPS, and the first voxel is the origin. Red, green and blue are channels.
        notes: that the file doesn't say how large its voxels are.
    """

    def __init__(self, path: Path) -> None:
        """Read the metadata.

        Args:
            path: the file or, if it has several images, ``file / NAME``, see ``images_in``.

        Raises:
            InputError: no such file or image, no name although there are several images, the package ``nd2`` isn't
                installed, damaged, other axes, lossy compression, planes missing, more voxels declared than the file
                can hold.
        """
        self._file, name = (path.parent, path.name) if path.parent.is_file() else (path, "")
        self._recording = recording = opened(self._file)
        self._place = image_named(self._file, name, _images(self._file, recording)).place
        width, height, depth = shape = (*recording.shape, recording.loops.get("z", 1))
        row = width * recording.components * recording.dtype.itemsize
        declared, size = depth * height * recording.row, self._file.stat().st_size
        if not 0 < declared <= size * (MAX_RATIO if recording.is_compressed else 1) or not 0 < row <= recording.row:
            raise InputError(
                f"{path}: the file declares {declared} bytes of voxels (shape {shape}, {recording.row} bytes a row), "
                f"which its {size} bytes can't hold; it is damaged or incomplete, copy or export it again"
            )
        missing = next((z for z in range(depth) if self._number(z) not in recording.planes), None)
        if missing is not None:
            raise InputError(
                f"{path}: slice {missing + 1} of {depth} is missing in the file; the recording was interrupted, or the "
                "file is damaged: copy it again"
            )
        affine = LPS_TO_RAS @ np.diag([*(recording.size or size_without_metadata() or (1, 1, 1)), 1])
        dtype = recording.dtype.newbyteorder("=")
        self.geometry = Geometry(shape, affine, recording.components, dtype, name=str(path))
        self.notes = () if recording.size else (note_without_metadata(path),)

    @classmethod
    def images_in(cls, path: Path) -> tuple[str, ...]:
        """Return the names of a file's images, e.g. ``p0001_t0003``; () for one image.

        Raises:
            InputError: as for opening it.
        """
        return tuple(filter(None, _images(path, opened(path))))

    def read(self, box: Box | None = None) -> NDArray[Any]:
        """Read the voxels of a box (C, X, Y, Z), or all of them, from the rows that have some.

        A compressed plane is read as a whole.

        Raises:
            InputError: a plane is damaged.
            MemoryError: there is not enough memory.
        """
        channels, dtype, row = self.geometry.channels, self._recording.dtype, self._recording.row
        sides = zip(box or (slice(None),) * 3, self.geometry.shape, strict=True)
        x, y, z = (range(*side.indices(length)) for side, length in sides)
        array = np.empty((channels, len(x), len(y), len(z)), self.geometry.dtype)
        for at in range(0, len(z), BLOCK // dtype.itemsize):
            part = z[at : at + BLOCK // dtype.itemsize]
            stored = np.empty((len(part), len(y) * row), np.uint8)
            for number, rows in zip(part, stored, strict=True):
                rows[:] = self._read_rows(number, y)
            steps = (dtype.itemsize, channels * dtype.itemsize, row, stored.shape[1])
            shape = (channels, len(x), len(y), len(part))
            voxels: NDArray[Any] = np.ndarray(shape, dtype, stored.data, x.start * steps[1], steps)
            for of_file, channel in zip(voxels, array, strict=True):
                copy_voxels(of_file, channel[:, :, at : at + len(part)])
        return array

    def working_memory(self, box: Box | None = None) -> int:
        """Return the bytes of the planes that are in memory at a time."""
        _, rows, planes = shape_of_box(box, self.geometry.shape)
        one = self.geometry.shape[1] if self._recording.is_compressed else rows
        return (min(planes, BLOCK // self.geometry.dtype.itemsize) * rows + one) * self._recording.row

    def _number(self, z: int) -> int:
        """Return the number of a plane in the file."""
        number = 0
        for axis, count in self._recording.loops.items():
            number = number * count + (z if axis == "z" else self._place[axis])
        return number

    def _read_rows(self, z: int, rows: range) -> NDArray[np.uint8]:
        """Read the bytes of some rows of a plane.

        Raises:
            InputError: the plane is damaged.
        """
        number, row = self._number(z), self._recording.row
        size, start, expected = self.geometry.shape[1] * row, self._recording.planes[number], b"ImageDataSeq|%d!"
        try:
            magic, name, content = _HEADER.unpack(read_stored(self._file, start, _HEADER.size).data)
            found = read_stored(self._file, start + _HEADER.size, len(expected % number)).tobytes()
            if magic != _MAGIC or found != expected % number:
                raise ValueError(f"{found!r} is in its place")
            first = start + _HEADER.size + name + _BEFORE
            if self._recording.is_compressed:
                return read_compressed(self._file, first, size)[rows.start * row : rows.stop * row]
            if content < _BEFORE + size:
                raise EOFError(f"{content} bytes, expected {_BEFORE + size}")
            return read_stored(self._file, first + rows.start * row, len(rows) * row)
        except (EOFError, OSError, ValueError, zlib.error) as error:
            raise InputError(
                f"{self._file}: slice {z + 1} (plane {number}) is damaged or incomplete ({error}); copy or export the "
                "file again"
            ) from error


def _images(file: Path, recording: Recording) -> dict[str, NamedImage]:
    """Return a file's images by their names.

    Raises:
        InputError: there are too many.
    """
    return named_images(file, [("", {axis: count for axis, count in recording.loops.items() if axis != "z"})])
