"""Where a TIFF image's pages are in the file, and parts of them, without more memory than a tile or a few rows."""

import itertools
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffPageSeries

from lib.core.errors import InputError

from .file_checks import MAX_RATIO, read_stored

_RATIOS = {1: 1, 5: 2560, 8: MAX_RATIO, 32946: MAX_RATIO, 32773: 64, 34926: 1 << 15, 50000: 1 << 15}
"""Most bytes that one byte expands to, by the number of the compression: none, LZW, deflate, PackBits and Zstandard."""

_MARGIN = 64
"""Bytes by which a short piece may expand to more."""

_HEADER = 8
"""Bytes at the beginning of a file in which there are no voxels."""

Sides = tuple[range, range, range, range, range]
"""Part of a page along its five axes: samples stored apart, Z, Y, X, samples stored together."""


class _Place(NamedTuple):
    """Where a page is in the file: its strips or tiles."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


class TiffPages:
    """The pages of one image.

    Attributes:
        shape: of each page, along the axes of ``Sides``.
        dtype: of its voxels, in native byte order; uint8 for single bits.
    """

    def __init__(self, path: Path, series: TiffPageSeries) -> None:
        """Find the pages.

        Raises:
            InputError: complex or unknown type of numbers, unknown compression, pages missing or incomplete, or more
                voxels declared than the file can hold.
        """
        self._path, self._page, self._size = path, series.keyframe, path.stat().st_size
        page = self._page
        self.shape = page.shaped
        bits = page.bitspersample
        if page.dtype is None or page.dtype.kind not in "biuf" or not isinstance(bits, int):
            raise InputError(
                f"{path}: the values are of type {page.dtype or 'unknown'} ({bits} bits); expected integers or real "
                "numbers; save e.g. the magnitude of complex values"
            )
        if page.compression not in _RATIOS or page.predictor not in (1, 2, 3) or page.is_subsampled:
            raise InputError(
                f"{path}: the compression {page.compression!s} (predictor {page.predictor!s}) can't be read; save it "
                "without compression, or with deflate, LZW or Zstandard"
            )
        self.dtype: np.dtype[Any] = np.dtype(np.uint8) if page.dtype.kind == "b" else page.dtype
        self._ratio = _RATIOS[page.compression] * max(1, math.ceil(self.dtype.itemsize * 8 / bits))
        voxels = math.prod(series.get_shape(False))
        if voxels * self.dtype.itemsize > self._size * self._ratio or not voxels:
            raise InputError(
                f"{path}: the file declares {voxels * self.dtype.itemsize} bytes of voxels (shape "
                f"{series.get_shape(False)}), but it can hold {self._size * self._ratio} at most; the file is damaged "
                "or incomplete, copy or export it again"
            )
        self._count = voxels // math.prod(self.shape)
        self._places = self._find(series)
        self._is_packed = page.is_final and all(map(_is_in_one_piece, self._places))
        if self._is_packed:
            self._places = [_Place(place.offsets[:1], (page.nbytes,)) for place in self._places]
        else:
            # It is made now, since it looks into the file, which will be closed.
            self._decode = page.decode
        for number, place in enumerate(self._places):
            self._check(number, place)

    def read(self, number: int, sides: Sides, to: NDArray[Any]) -> None:
        """Read a part of a page into an array of its shape, in any memory order.

        Raises:
            InputError: the page is damaged.
            MemoryError: there is not enough memory.
        """
        try:
            if self._is_packed:
                self._read_rows(self._places[number], sides, to)
            else:
                self._read_pieces(self._places[number], sides, to)
        except MemoryError:
            raise
        # The decoders raise errors of many types.
        except Exception as error:
            raise self._damaged(number, error) from error

    def working_memory(self, sides: Sides) -> int:
        """Return how many bytes ``read`` takes besides the array that it fills."""
        if self._is_packed:
            return len(sides[2]) * self.shape[3] * self.shape[4] * self.dtype.itemsize
        return 3 * math.prod(self._page.chunks) * self.dtype.itemsize

    def _find(self, series: TiffPageSeries) -> list[_Place]:
        """Return where each page is.

        Raises:
            InputError: there are too few pages.
        """
        page, pages = self._page, list(series)
        if len(pages) == 1 < self._count and page.is_final:
            # One page stands for all, which follow it.
            first, size = page.dataoffsets[0], page.nbytes
            return [_Place((first + number * size,), (size,)) for number in range(self._count)]
        found = [_Place(tuple(each.dataoffsets), tuple(each.databytecounts)) for each in pages if each is not None]
        if not len(found) == len(pages) == self._count:
            raise InputError(
                f"{self._path}: {len(found)} planes are in the file, expected {self._count}; the file is damaged or "
                "incomplete, copy or export it again"
            )
        return found

    def _check(self, number: int, place: _Place) -> None:
        """Check that a page is in the file.

        Raises:
            InputError: it isn't.
        """
        pieces = 1 if self._is_packed else math.prod(self._page.chunked)
        if not len(place.offsets) == len(place.sizes) == pieces:
            raise self._damaged(number, f"{len(place.offsets)} strips or tiles, expected {pieces}")
        for offset, size in zip(*place, strict=True):
            if offset < _HEADER or size < 1 or offset + size > self._size:
                raise self._damaged(number, f"it has bytes {offset} to {offset + size}, the file ends at {self._size}")

    def _read_rows(self, place: _Place, sides: Sides, to: NDArray[Any]) -> None:
        """Read rows that lie in the file as they are."""
        _, depth, height, width, together = self.shape
        dtype = self.dtype.newbyteorder(self._page.parent.byteorder)
        row = width * together * dtype.itemsize
        rows, columns, samples = (slice(side.start, side.stop) for side in sides[2:])
        for (i, s), (j, z) in itertools.product(enumerate(sides[0]), enumerate(sides[1])):
            start = place.offsets[0] + ((s * depth + z) * height + rows.start) * row
            content = read_stored(self._path, start, (rows.stop - rows.start) * row)
            to[i, j] = content.view(dtype).reshape(-1, width, together)[:, columns, samples]

    def _read_pieces(self, place: _Place, sides: Sides, to: NDArray[Any]) -> None:
        """Decode the strips or tiles that have something of the part."""
        decode = self._decode
        with self._path.open("rb") as file:
            for number, (offset, size) in enumerate(zip(*place, strict=True)):
                # Without data, tifffile says where the piece belongs.
                _, starts, lengths = decode(None, number)
                piece = (1, *lengths)
                inside = [_overlap(*of_axis) for of_axis in zip(starts, piece, self.shape, sides, strict=True)]
                if not all(inside):
                    continue
                if math.prod(piece) * self.dtype.itemsize > (size + _MARGIN) * self._ratio:
                    raise ValueError(f"{size} bytes can't hold a strip or tile of shape {piece}")
                file.seek(offset)
                voxels = np.asarray(decode(file.read(size), number)[0])[None]
                source = tuple(slice(a.start - at, a.stop - at) for a, at in zip(inside, starts, strict=True))
                target = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(inside, sides, strict=True))
                to[target] = voxels[source]

    def _damaged(self, number: int, what: object) -> InputError:
        return InputError(
            f"{self._path}: page {number + 1} of {self._count} is damaged or incomplete ({what}); copy or export the "
            "file again"
        )


def _is_in_one_piece(place: _Place) -> bool:
    """Return whether all strips or tiles follow each other."""
    ends = map(sum, zip(*place, strict=True))
    return bool(place.offsets) and all(end == start for end, start in zip(ends, place.offsets[1:], strict=False))


def _overlap(start: int, length: int, end: int, side: range) -> range:
    """Return the indices that a piece of a page, which ends at the page's end, shares with a part of it."""
    return range(max(start, side.start), min(start + length, end, side.stop))
