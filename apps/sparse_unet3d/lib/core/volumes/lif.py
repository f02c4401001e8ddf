"""LIF files (``.lif``), by Leica's microscopes: any number of series, not compressed."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .file_checks import read_stored, reading
from .lif_metadata import images_of, layout_of, opened
from .named_images import image_named
from .source import Box, shape_of_box
from .volume import LPS_TO_RAS, Geometry
from .voxel_order import BLOCK, copy_voxels
from .voxel_size import note_without_metadata, size_without_metadata


class LifSource:
    """One image of a LIF file: one series, at one point in time, one tile of a mosaic.

    Attributes:
        geometry: the axes of voxels go along LPS, and the first voxel is the origin.
        notes: that the file doesn't say how large its voxels are.
    """

    def __init__(self, path: Path) -> None:
        """Read the metadata.

        Args:
            path: the file or, if it has several images, ``file / NAME``, see ``images_in``.

        Raises:
            InputError: no such file or image, no name although there are several images, the package ``liffile`` isn't
                installed, damaged, other axes, more voxels declared than the file holds.
        """
        self._file, name = (path.parent, path.name) if path.parent.is_file() else (path, "")
        contents = opened(self._file)
        number, place = image_named(self._file, name, images_of(self._file, contents))
        self._layout = layout = layout_of(path, contents, number, place)
        affine = LPS_TO_RAS @ np.diag([*(layout.size or size_without_metadata() or (1, 1, 1)), 1])
        dtype = layout.dtype.newbyteorder("=")
        self.geometry = Geometry(layout.shape, affine, len(layout.channels), dtype, name=str(path))
        self.notes = () if layout.size else (note_without_metadata(path),)
        self._slowest = layout.steps.index(max(layout.steps))
        """The axis whose planes follow each other in the file: Z, or Y in a stack scanned along X and Z."""

    @classmethod
    def images_in(cls, path: Path) -> tuple[str, ...]:
        """Return the names of a file's images, e.g. ``Mouse_1_t0003``; () for one image.

        Raises:
            InputError: as for opening it.
        """
        return tuple(filter(None, images_of(path, opened(path))))

    def read(self, box: Box | None = None) -> NDArray[Any]:
        """Read the voxels of a box (C, X, Y, Z), or all of them, from the lines of each plane that have some.

        Raises:
            InputError: the file can't be read.
            MemoryError: there is not enough memory.
        """
        layout, shape = self._layout, shape_of_box(box, self.geometry.shape)
        start = [side.start or 0 for side in box or (slice(None),) * 3]
        array = np.empty((self.geometry.channels, *shape), self.geometry.dtype)
        planes, length = self._block(shape)
        steps = [length if axis == self._slowest else step for axis, step in enumerate(layout.steps)]
        for channel, offset in zip(array, layout.channels, strict=True):
            first = layout.start + offset + int(np.dot(start, layout.steps))
            for at in range(0, shape[self._slowest], planes):
                part = np.moveaxis(channel, self._slowest, 0)[at : at + planes]
                stored = np.empty((len(part), length), np.uint8)
                for number, plane in enumerate(stored, at):
                    with reading(self._file):
                        plane[:] = read_stored(self._file, first + number * layout.steps[self._slowest], length)
                to = np.moveaxis(part, 0, self._slowest)
                copy_voxels(np.ndarray(to.shape, layout.dtype, stored.data, strides=steps), to)
        return array

    def working_memory(self, box: Box | None = None) -> int:
        """Return the bytes of the planes that are in memory at a time."""
        planes, length = self._block(shape_of_box(box, self.geometry.shape))
        return (planes + 1) * length

    def _block(self, shape: tuple[int, int, int]) -> tuple[int, int]:
        """Return how many planes of a box are in memory at a time, and the bytes from the first voxel to the last."""
        between = [(shape[axis] - 1) * self._layout.steps[axis] for axis in range(3) if axis != self._slowest]
        size = self._layout.dtype.itemsize
        return min(BLOCK // size, shape[self._slowest]), sum(between) + size
