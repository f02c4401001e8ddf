"""CZI files (``.czi``), by Zeiss: one scene at one point in time, at one level of a pyramid, tile by tile."""

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import InputError

from .czi_file import Tile, read_file, read_tile
from .czi_levels import levels_of
from .named_images import NamedImage, image_named, named_images
from .pyramid import choose_level, level_notes
from .source import Box, shape_of_box
from .volume import LPS_TO_RAS, Geometry
from .voxel_order import BLOCK, copy_voxels
from .voxel_size import note_without_metadata, size_without_metadata

_FURTHER = "TVIHRB"
"""Axes along which each place is an image of its own: time, view, illumination, phase, rotation and block."""


class CziSource:
    """An image in a CZI file: one scene at one point in time. ``pyramid.choose_level`` says which level it is.

    Red, green and blue of a colour image are channels.

    Attributes:
        geometry: the axes of voxels go along LPS, since CZI has no directions, and the first voxel of the finest level
            is the origin.
        notes: that the file doesn't say how large its voxels are, that tiles don't cover all planes, and the level if
            it isn't the finest.
    """

    def __init__(self, path: Path) -> None:
        """Read where the tiles are.

        Args:
            path: the file or, if it has several images, ``file / NAME``, see ``images_in``.

        Raises:
            InputError: no such file or image, no name although there are several images, damaged, planes missing, parts
                in other files, types or compressions that can't be used, more voxels declared than the file can hold.
        """
        self._file, name = (path, "") if path.is_file() or not path.parent.is_file() else (path.parent, path.name)
        all_tiles, stated = read_file(self._file)
        image = image_named(self._file, name, _images(self._file, all_tiles))
        place = {"S": image.series, **image.place}
        tiles = [tile for tile in all_tiles if all(tile.at.get(axis, 0) == index for axis, index in place.items())]
        try:
            levels = levels_of(tiles)
            self._channels = _channels(tiles)
        except ValueError as error:
            raise InputError(f"{path}: cannot be used ({error}); the file is incomplete, export it again") from error
        count = sum(samples for _, samples in self._channels)
        dtype = np.result_type(*(dtype for dtype, _ in self._channels))
        size = np.array(stated or size_without_metadata() or (1, 1, 1), float)
        spacings = [size * np.array([level.factor, level.factor, 1.0]) for level in levels]
        number = choose_level(spacings, [count * math.prod(level.shape) * dtype.itemsize for level in levels])
        self._level = levels[number]
        affine = np.diag([*spacings[number], 1.0])
        # A pixel of a coarser level is the mean of those that it spans, and lies in their middle.
        affine[:3, 3] = (spacings[number] - size) / 2
        self.geometry = Geometry(self._level.shape, LPS_TO_RAS @ affine, count, dtype, name=str(path))
        notes = [] if stated else [note_without_metadata(path)]
        if self._level.gaps:
            notes.append(f"{path}: {self._level.gaps} planes aren't wholly covered by tiles; their other voxels are 0")
        self.notes = (*notes, *level_notes(self.geometry, number))

    @classmethod
    def images_in(cls, path: Path) -> tuple[str, ...]:
        """Return the names of a file's images: of scenes (``scene0``, …), of points in time (``t0000``, …), or both.

        Raises:
            InputError: as for opening it.
        """
        return tuple(filter(None, _images(path, read_file(path)[0])))

    def read(self, box: Box | None = None) -> NDArray[Any]:
        """Read the voxels of a box (C, X, Y, Z), or all of them, from the tiles that it touches.

        Raises:
            InputError: a tile is damaged.
            MemoryError: there is not enough memory.
        """
        shape = shape_of_box(box, self.geometry.shape)
        array = np.empty((self.geometry.channels, *shape), self.geometry.dtype)
        x, y, z = (range(n)[side] for side, n in zip(box or (slice(None),) * 3, self.geometry.shape, strict=True))
        first, step = 0, max(1, BLOCK // array.itemsize)
        for channel, (_, samples) in enumerate(self._channels):
            for start in range(0, len(z), step):
                some = z[start : start + step]
                planes = np.zeros((samples, len(some), len(y), len(x)), array.dtype)
                for number, plane in enumerate(some):
                    self._read_plane(channel, plane, x, y, planes[:, number])
                for sample, voxels in enumerate(planes):
                    copy_voxels(voxels.T, array[first + sample, :, :, start : start + len(some)])
            first += samples
        return array

    def working_memory(self, box: Box | None = None) -> int:
        """Return the bytes of the planes that are in memory at a time, and of decoding a tile."""
        x, y, _ = shape_of_box(box, self.geometry.shape)
        planes = max(samples for _, samples in self._channels) * x * y * max(BLOCK, self.geometry.dtype.itemsize)
        # A tile is stored, expanded, and put in order.
        return planes + 3 * max(placed.tile.nbytes for plane in self._level.planes.values() for placed in plane)

    def _read_plane(self, channel: int, plane: int, x: range, y: range, to: NDArray[Any]) -> None:
        """Read a part of a plane into an array (samples, Y, X).

        Raises:
            InputError: a tile is damaged.
        """
        for left, top, tile in self._level.planes[channel, plane]:
            columns = range(max(x.start, left), min(x.stop, left + tile.stored[0]))
            rows = range(max(y.start, top), min(y.stop, top + tile.stored[1]))
            if columns and rows:
                voxels = read_tile(self._file, tile, range(rows.start - top, rows.stop - top))
                part = voxels[:, columns.start - left : columns.stop - left].transpose(2, 0, 1)
                to[:, rows.start - y.start : rows.stop - y.start, columns.start - x.start : columns.stop - x.start] = (
                    part
                )


def _channels(tiles: Sequence[Tile]) -> list[tuple[np.dtype[Any], int]]:
    """Return the type of numbers of each channel, in the computer's byte order, and its samples.

    Raises:
        ValueError: the tiles of a channel differ in them.
    """
    kinds = defaultdict[int, set[tuple[np.dtype[Any], int]]](set)
    for tile in tiles:
        kinds[tile.at.get("C", 0)].add((tile.dtype.newbyteorder("="), tile.samples))
    for channel, found in kinds.items():
        if len(found) > 1:
            raise ValueError(f"channel {channel} has tiles of several types: {', '.join(map(str, found))}")
    return [kinds[channel].pop() for channel in sorted(kinds)]


def _images(file: Path, tiles: Sequence[Tile]) -> dict[str, NamedImage]:
    """Return the scene and the index along each further axis of each of a file's images, by its name.

    Raises:
        InputError: there are too many.
    """
    scenes = defaultdict[int, dict[str, set[int]]](lambda: {axis: set() for axis in _FURTHER})
    for tile in tiles:
        for axis, indices in scenes[tile.at.get("S", 0)].items():
            indices.add(tile.at.get(axis, 0))
    found = [(scene, {axis: sorted(indices) for axis, indices in scenes[scene].items()}) for scene in sorted(scenes)]
    series = [(f"scene{scene}", {axis.lower(): len(found) for axis, found in axes.items()}) for scene, axes in found]
    return {
        name: NamedImage(found[number][0], {axis: found[number][1][axis][place[axis.lower()]] for axis in _FURTHER})
        for name, (number, place) in named_images(file, series).items()
    }
