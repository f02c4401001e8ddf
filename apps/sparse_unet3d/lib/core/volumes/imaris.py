"""Imaris files (``.ims``), version 5.5: one level of a pyramid at one point in time."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .imaris_file import channels_of, check_chunks, count, member, opened, text
from .named_images import NamedImage, image_named, named_images
from .pyramid import choose_level, level_notes
from .source import Box, shape_of_box
from .volume import LPS_TO_RAS, Geometry
from .voxel_order import copy_voxels
from .voxel_size import MILLIMETRES, if_valid, note_without_metadata, size_without_metadata

_BLOCK = 64
"""Planes that are read at a time if the voxels aren't stored in chunks."""


class ImarisSource:
    """An image in an Imaris file: one point in time. ``pyramid.choose_level`` says which level it is.

    Attributes:
        geometry: the axes of voxels go along LPS, since Imaris has no directions; the extent says how large they are,
            and where.
        notes: that the file doesn't say how large its voxels are, or in which unit; the level if it isn't the finest.
    """

    def __init__(self, path: Path) -> None:
        """Read the metadata, and which chunks there are.

        Args:
            path: the file or, if it has several images, ``file / NAME``, see ``images_in``.

        Raises:
            InputError: no such file or image, no name although there are several images, damaged, chunks missing,
                channels that differ in size or type, data in other files, filters that need plugins, more voxels
                declared than the file can hold, no h5py.
        """
        self._file, name = (path, "") if path.is_file() or not path.parent.is_file() else (path.parent, path.name)
        with opened(self._file) as file:
            self._time = image_named(self._file, name, _images(self._file, file)).place["t"]
            levels = [
                channels_of(file, level, self._time)
                for level in range(count(member(file, "DataSet"), "ResolutionLevel"))
            ]
            shapes = [level[0].shape for level in levels]
            low, size, notes = _place(path, member(member(file, "DataSetInfo"), "Image"), shapes[0])
            spacings = [size * shapes[0] / shape for shape in shapes]
            voxels = [len(level) * math.prod(level[0].shape) * level[0].data.dtype.itemsize for level in levels]
            self._level = choose_level(spacings, voxels)
            chosen = levels[self._level]
            for channel in chosen:
                check_chunks(channel)
            data = chosen[0].data
            self._chunk = data.chunks or (_BLOCK, 0, 0)
            dtype = data.dtype.newbyteorder("=")
        affine = np.diag([*spacings[self._level], 1.0])
        # The extent is that of the outer faces of the voxels.
        affine[:3, 3] = low + spacings[self._level] / 2
        self.geometry = Geometry(shapes[self._level], LPS_TO_RAS @ affine, len(chosen), dtype, name=str(path))
        self.notes = (*notes, *level_notes(self.geometry, self._level))

    @classmethod
    def images_in(cls, path: Path) -> tuple[str, ...]:
        """Return the names of a file's images, if there are several: of points in time (``t0000``, …).

        Raises:
            InputError: the file is damaged, no h5py.
        """
        with opened(path) as file:
            return tuple(filter(None, _images(path, file)))

    def read(self, box: Box | None = None) -> NDArray[Any]:
        """Read the voxels of a box (C, X, Y, Z), or all of them, from the chunks that it touches.

        Raises:
            InputError: a chunk is damaged.
            MemoryError: there is not enough memory.
        """
        shape = self.geometry.shape
        array = np.empty((self.geometry.channels, *shape_of_box(box, shape)), self.geometry.dtype)
        x, y, z = (range(length)[side] for side, length in zip(box or (slice(None),) * 3, shape, strict=True))
        with opened(self._file) as file:
            channels = channels_of(file, self._level, self._time)
            if (len(channels), channels[0].shape) != (len(array), shape):
                raise ValueError("it has changed since it was opened")
            for to, (data, _) in zip(array, channels, strict=True):
                for start in range(z.start - z.start % self._chunk[0], z.stop, self._chunk[0]):
                    part = range(max(start, z.start), min(start + self._chunk[0], z.stop))
                    try:
                        planes = data[part.start : part.stop, y.start : y.stop, x.start : x.stop]
                    except OSError as error:
                        raise ValueError(f"planes {part.start} to {part.stop - 1} of {data.name}: {error}") from error
                    copy_voxels(planes.T, to[:, :, part.start - z.start : part.stop - z.start])
        return array

    def working_memory(self, box: Box | None = None) -> int:
        """Return the bytes of the planes that are in memory at a time, and of a chunk, stored and expanded."""
        x, y, z = shape_of_box(box, self.geometry.shape)
        return (x * y * min(z, self._chunk[0]) + 2 * math.prod(self._chunk)) * self.geometry.dtype.itemsize


def _images(path: Path, file: Any) -> dict[str, NamedImage]:
    """Return a file's images by their names.

    Raises:
        InputError: too many.
        ValueError: no points in time, or one is missing.
    """
    times = count(member(member(file, "DataSet"), "ResolutionLevel 0"), "TimePoint")
    if times == 0:
        raise ValueError("there is no point in time")
    return named_images(path, [("", {"t": times})])


def _place(
    path: Path, image: Any, shape: tuple[int, int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Return where the image begins, the size of the finest level's voxels, both in LPS mm, and what to tell a person.

    Args:
        path: names the image in messages.
        image: the group with the extent.
        shape: (X, Y, Z) of the finest level.

    Raises:
        ValueError: an attribute is no number, or the unit is unknown.
    """
    low, high = (
        np.array([float(text(image, f"Ext{end}{axis}") or "nan") for axis in range(3)]) for end in ("Min", "Max")
    )
    unit = text(image, "Unit")
    stated = if_valid((high - low) / shape)
    if stated is None:
        size = np.array(size_without_metadata() or (1.0, 1.0, 1.0))
        return -size / 2, size, [note_without_metadata(path)]
    if unit and unit not in MILLIMETRES:
        raise ValueError(f"the unit {unit!r}; expected {', '.join(MILLIMETRES)}")
    scale = MILLIMETRES[unit or "um"]
    note = f"{path}: the file gives the size of its voxels without a unit; the numbers count as micrometres"
    return scale * low, scale * np.array(stated), [] if unit else [note]
