"""TIFF files (``.tif``, ``.tiff``): OME-TIFF, ImageJ's stacks and hyperstacks, and plain stacks of pages."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from tifffile import TiffPageSeries

from lib.core.errors import InputError

from .named_images import NamedImage, image_named, named_images
from .source import Box, shape_of_box
from .tiff_file import opened
from .tiff_pages import Sides, TiffPages
from .tiff_voxel_size import imagej_voxel_size, ome_voxel_size
from .volume import LPS_TO_RAS, Affine, Geometry
from .voxel_order import BLOCK, copy_voxels, in_order_of_files
from .voxel_size import note_without_metadata, size_without_metadata


class TiffSource:
    """An image in a TIFF file.

    Axes come from the metadata. The samples of a pixel, e.g. red, green and blue, are channels too. A point in time is
    an image of its own. A file without metadata is a Z stack of its pages.

    Attributes:
        geometry: the axes of voxels go along LPS, since TIFF has no directions, and the first voxel is the origin.
        notes: that the file doesn't say how large its voxels are.
    """

    def __init__(self, path: Path) -> None:
        """Read the metadata and where the pages are.

        Args:
            path: the file or, if it has several images, ``file / NAME``, see ``images_in``.

        Raises:
            InputError: no such file or image, no name although there are several images, damaged, axes unknown, planes
                in other files, complex values, unknown compression, more voxels declared than the file can hold.
        """
        file, name = (path, "") if path.is_file() else (path.parent, path.name)
        with opened(file if file.is_file() else path) as (series, tiff, pixels):
            chosen_image = image_named(file, name, _images(file, series))
            number, self._time = chosen_image.series, chosen_image.place["t"]
            chosen = series[number]
            self._pages = TiffPages(file, chosen)
            size = ome_voxel_size(pixels[number]) if pixels else imagej_voxel_size(tiff)
        # Axes of length 1 are left out, except X and Y.
        self._shape = chosen.get_shape(True)
        self._axes = _known_axes(path, chosen.get_axes(True))
        in_page = [axis for axis, letter in enumerate("SZYXS") if self._pages.shape[axis] > 1 or letter in "YX"]
        self._outer = len(self._shape) - len(in_page)
        if self._shape[max(self._outer, 0) :] != tuple(self._pages.shape[axis] for axis in in_page):
            raise InputError(
                f"{path}: pages of shape {self._pages.shape} don't make up an image of shape {self._shape} with axes "
                f"{self._axes}; save it as OME-TIFF, e.g. with Fiji"
            )
        self._in_page = in_page
        lengths = dict(zip(self._axes, self._shape, strict=True))
        shape = (lengths["X"], lengths["Y"], lengths.get("Z", 1))
        stated = size or size_without_metadata()
        affine: Affine = LPS_TO_RAS @ np.diag([*(stated or (1, 1, 1)), 1])
        channels = lengths.get("C", 1) * lengths.get("S", 1)
        self.geometry = Geometry(shape, affine, channels, self._pages.dtype, name=str(path))
        self.notes = () if size else (note_without_metadata(path),)
        if size and not pixels and shape[2] > 1 and "spacing" not in (tiff.imagej_metadata or {}):
            self.notes = (f"{path}: ImageJ's metadata has no spacing between slices, which counts as 1, as in ImageJ",)

    @classmethod
    def images_in(cls, path: Path) -> tuple[str, ...]:
        """Return the names of a file's images: of series, of points in time (``t0000``, …) or both; () for one image.

        Raises:
            InputError: as for opening it.
        """
        with opened(path) as (series, _, _):
            return tuple(filter(None, _images(path, series)))

    def read(self, box: Box | None = None) -> NDArray[Any]:
        """Read the voxels of a box (C, X, Y, Z), or all of them; only pages, tiles or rows that have some are read.

        Raises:
            InputError: a page is damaged.
            MemoryError: there is not enough memory.
        """
        array = np.empty((self.geometry.channels, *shape_of_box(box, self.geometry.shape)), self.geometry.dtype)
        for start, sides in self._blocks(box):
            stored = self._read_block(sides)
            # C and S come first in this order, and together they count channels.
            order = sorted(range(stored.ndim), key=lambda axis: "CSXYZ".index(self._kept_axes[axis]))
            length = len(sides.get("Z", range(1)))
            in_order = stored.transpose(order).reshape(-1, *array.shape[1:3], length)
            for channel, of_file in zip(array, in_order, strict=True):
                copy_voxels(of_file, channel[:, :, start : start + length])
        return array

    def working_memory(self, box: Box | None = None) -> int:
        """Return the bytes of the planes that are in memory at a time, and of decoding a tile of them."""
        sides = next(self._blocks(box))[1]
        planes = math.prod(map(len, sides.values())) * self.geometry.dtype.itemsize
        # Channels and samples together are put in order by a copy.
        copies = 2 if {"C", "S"} <= set(self._axes) else 1
        return copies * planes + self._pages.working_memory(self._of_page(sides))

    @classmethod
    def write(cls, path: Path, array: NDArray[np.uint8], affine: Affine) -> None:
        """Write a label map as an OME-TIFF with deflate; the affine's directions and origin are lost.

        Args:
            path: where to write.
            array: (X, Y, Z).
            affine: (4, 4) voxel to RAS mm.

        Raises:
            OSError: it can't be written.
        """
        metadata: dict[str, Any] = {"axes": "ZYX"}
        for axis, size in zip("XYZ", np.linalg.norm(affine[:3, :3], axis=0), strict=True):
            metadata |= {f"PhysicalSize{axis}": float(1000 * size), f"PhysicalSize{axis}Unit": "µm"}
        voxels = in_order_of_files(array).T
        tifffile.imwrite(path, voxels, ome=True, photometric="minisblack", compression="zlib", metadata=metadata)

    @property
    def _kept_axes(self) -> str:
        """The series' axes without time."""
        return self._axes.replace("T", "")

    def _blocks(self, box: Box | None) -> Iterator[tuple[int, dict[str, range]]]:
        """Yield where each block begins along Z in the box, and its indices along each axis of the series."""
        whole = (slice(None),) * 3
        sides = {axis: range(length) for axis, length in zip(self._axes, self._shape, strict=True)}
        sides |= {axis: sides[axis][side] for axis, side in zip("XYZ", box or whole, strict=True) if axis in sides}
        if "T" in sides:
            sides["T"] = range(self._time, self._time + 1)
        along_z, step = sides.get("Z", range(1)), max(1, BLOCK // self.geometry.dtype.itemsize)
        for start in range(0, len(along_z), step):
            yield start, {**sides, **({"Z": along_z[start : start + step]} if "Z" in sides else {})}

    def _read_block(self, sides: dict[str, range]) -> NDArray[Any]:
        """Read a block in the order of the series' axes without time."""
        stored = np.empty([len(sides[axis]) for axis in self._axes], self.geometry.dtype)
        of_page = self._of_page(sides)
        outer = self._axes[: self._outer]
        for index in np.ndindex(stored.shape[: self._outer]):
            at = [sides[axis][i] for axis, i in zip(outer, index, strict=True)]
            number = int(np.ravel_multi_index(at, self._shape[: self._outer])) if at else 0
            self._pages.read(number, of_page, stored[index].reshape([len(side) for side in of_page]))
        return stored.reshape([len(sides[axis]) for axis in self._kept_axes])

    def _of_page(self, sides: dict[str, range]) -> Sides:
        """Return the part of each page that a block needs."""
        of_page = [range(1)] * 5
        for axis, letter in zip(self._in_page, self._axes[self._outer :], strict=True):
            of_page[axis] = sides[letter]
        return of_page[0], of_page[1], of_page[2], of_page[3], of_page[4]


def _images(file: Path, series: list[TiffPageSeries]) -> dict[str, NamedImage]:
    """Return a file's images by their names: each series at each point in time."""
    lengths = [dict(zip(each.get_axes(True), each.get_shape(True), strict=True)) for each in series]
    return named_images(file, [(each.name, {"t": by.get("T", 1)}) for each, by in zip(series, lengths, strict=True)])


def _known_axes(path: Path, axes: str) -> str:
    """Return the axes by their letters: X, Y, Z, C for channels, S for a pixel's samples, T for time.

    Raises:
        InputError: there are others.
    """
    # tifffile calls the pages of a file without metadata I, or Q if it wrote the file itself.
    if re.fullmatch("[IQ]S?YXS?", axes):
        axes = "Z" + axes[1:]
    unknown = sorted(set(axes) - set("XYZCST"))
    if unknown or len(set(axes)) < len(axes) or not {"X", "Y"} <= set(axes):
        raise InputError(
            f"{path}: the axes are {axes}, of which {', '.join(unknown) or 'some'} can't be used; expected X, Y, Z, "
            "C (channel), S (sample) and T (time), each once; save it as OME-TIFF or as an ImageJ hyperstack with "
            "named axes"
        )
    return axes
