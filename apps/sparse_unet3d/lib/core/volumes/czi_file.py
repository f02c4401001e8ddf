"""The segments of CZI files: the directory of their tiles, the tiles' voxels, and the voxel size in their XML.

The one maintained library under a free licence crashes on damaged files, and takes missing bytes for zeros. The layout
is simple, so that it is read here; imagecodecs decodes the voxels.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree  # nosec B405 - document types, which XML attacks need, are refused before parsing

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from lib.core.errors import InputError

from .file_checks import read_stored, reading
from .voxel_size import if_valid
from .xml_checks import check_xml

_PIXELS = {0: ("u1", 1), 1: ("u2", 1), 2: ("f4", 1), 3: ("u1", 3), 4: ("u2", 3), 8: ("f4", 3)}
"""The type of numbers and the samples of a pixel, by the number of the pixel type; three are blue, green and red."""

_STORED, _JPEG, _JPEG_XR, _ZSTD, _ZSTD_WITH_HEADER = 0, 1, 4, 5, 6
"""Ways to store a tile."""

_MAX_RATIO = 1 << 15
"""Most bytes that one byte compressed in these ways expands to."""

_HEADER = 32
"""Bytes of a segment's header."""

_LARGEST_XML = 1 << 26
"""Most bytes of XML."""


class Tile(NamedTuple):
    """A part of one plane.

    Attributes:
        position: the byte of the file at which its segment begins.
        compression: how it is stored.
        dtype: of its numbers, in the file's byte order.
        samples: numbers of a pixel: 3 in colour images, else 1.
        at: its index along each axis by its letter, e.g. C, Z, T, S (scene) and M (number of the tile); X and Y count
            pixels of the finest level.
        size: its width and height in pixels of the finest level.
        stored: its width and height in its own pixels; fewer if it belongs to a coarser level.
    """

    position: int
    compression: int
    dtype: np.dtype[Any]
    samples: int
    at: dict[str, int]
    size: tuple[int, int]
    stored: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes of its voxels."""
        return self.stored[0] * self.stored[1] * self.samples * self.dtype.itemsize


def read_file(path: Path) -> tuple[list[Tile], tuple[float, float, float] | None]:
    """Read the directory of tiles, and the voxel size along X, Y, Z in mm; None if the file doesn't state it.

    Raises:
        InputError: no CZI file, damaged, incomplete, parts in other files, types or compressions that can't be used,
            tiles that are larger than the file can hold.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    with reading(path):
        start, _ = _segment(path, 0, b"ZISRAWFILE")
        major, part, directory, metadata = struct.unpack("<i44xiqq", read_stored(path, start, 68).data)
        if major != 1:
            raise ValueError(f"version {major} of the format, expected 1")
        start, used = _segment(path, directory, b"ZISRAWDIRECTORY")
        tiles = list(_entries(read_stored(path, start, used).tobytes()))
        if part != 0 or not tiles:
            raise ValueError("no tiles" if part == 0 else f"part {part} of an image in several files")
        _check_sizes(tiles, path.stat().st_size)
        return tiles, _voxel_size(path, metadata) if metadata else None


def _segment(path: Path, position: int, name: bytes) -> tuple[int, int]:
    """Return where the content of a segment begins, and how many bytes it has.

    Raises:
        ValueError, EOFError: there is another segment, or none.
    """
    found, allocated, used = struct.unpack("<16sqq", read_stored(path, position, _HEADER).data)
    if found.rstrip(b"\0") != name or min(allocated, used) < 0:
        raise ValueError(f"no {name.decode()} at byte {position}")
    # Some programs leave the number of used bytes out.
    return position + _HEADER, used or allocated


def _entries(content: bytes) -> Iterator[Tile]:
    """Yield the tiles in the content of the directory.

    Raises:
        ValueError: it is damaged, or has tiles that can't be used.
    """
    try:
        (count,) = struct.unpack_from("<i", content)
        offset = 128
        for _ in range(count):
            schema, pixels, position, part, compression, axes = struct.unpack_from("<2siqii6xi", content, offset)
            if schema != b"DV" or not 0 < axes < 100:
                raise ValueError(f"entry of type {schema!r} with {axes} axes in the directory")
            sides = {}
            for number in range(axes):
                letter, *side = struct.unpack_from("<4sii4xi", content, offset + 32 + 20 * number)
                sides[letter.rstrip(b"\0").decode("ascii")] = side
            offset += 32 + 20 * axes
            if part != 0:
                raise ValueError(f"a tile is in part {part} of an image in several files")
            yield _tile(position, pixels, compression, sides)
    except struct.error as error:
        raise ValueError("the directory of tiles is incomplete") from error


def _tile(position: int, pixels: int, compression: int, sides: dict[str, list[int]]) -> Tile:
    """Return a tile, where ``sides`` are its start, size and stored size along each axis.

    Raises:
        ValueError: it can't be used.
    """
    (_, width, columns), (_, height, rows) = sides.get("X", (0, 0, 0)), sides.get("Y", (0, 0, 0))
    if pixels not in _PIXELS:
        raise ValueError(f"pixels of type {pixels}; expected grey values or colours, integers or real numbers")
    if compression not in (_STORED, _JPEG, _JPEG_XR, _ZSTD, _ZSTD_WITH_HEADER):
        raise ValueError(f"compression {compression}; expected none, JPEG, JPEG XR or Zstandard")
    # A stored size of 0 means that all pixels are stored.
    columns, rows = columns or width, rows or height
    if (
        min(columns, rows) < 1
        or columns > width
        or rows > height
        or any(size > 1 for axis, (_, size, _) in sides.items() if axis not in "XY")
    ):
        raise ValueError(f"a tile of the size {sides}; expected a part of one plane")
    dtype, samples = _PIXELS[pixels]
    at = {axis: start for axis, (start, _, _) in sides.items()}
    return Tile(position, compression, np.dtype(f"<{dtype}"), samples, at, (width, height), (columns, rows))


def _check_sizes(tiles: list[Tile], size: int) -> None:
    """Check that each tile has room in the file before the next one.

    Raises:
        ValueError: one hasn't.
    """
    tiles = sorted(tiles, key=lambda tile: tile.position)
    ends = [*(tile.position for tile in tiles[1:]), size]
    for tile, end in zip(tiles, ends, strict=True):
        room = end - tile.position - _HEADER
        if tile.position < 0 or tile.nbytes > room * (1 if tile.compression == _STORED else _MAX_RATIO):
            raise ValueError(f"the tile at byte {tile.position} has {tile.nbytes} bytes, more than the file can hold")


def _voxel_size(path: Path, metadata: int) -> tuple[float, float, float] | None:
    """Return the voxel size along X, Y, Z in mm from the XML, which has it in metres.

    Raises:
        ValueError: the XML is damaged.
    """
    start, _ = _segment(path, metadata, b"ZISRAWMETADATA")
    (length,) = struct.unpack("<i", read_stored(path, start, 4).data)
    if not 0 <= length <= _LARGEST_XML:
        raise ValueError(f"XML of {length} bytes; expected at most {_LARGEST_XML}")
    text = read_stored(path, start + 256, length).tobytes().decode("utf-8-sig")
    check_xml(text)
    try:
        root = ElementTree.fromstring(text)  # nosec B314 - see the import
    except ElementTree.ParseError as error:
        raise ValueError(f"damaged XML: {error}") from error
    sizes = {each.get("Id"): each.findtext("Value") for each in root.iterfind("Metadata/Scaling/Items/Distance")}
    return if_valid([1000 * float(sizes.get(axis) or "nan") for axis in "XYZ"])


def read_tile(path: Path, tile: Tile, rows: range) -> NDArray[Any]:
    """Read some rows of a tile: (rows, columns, samples), samples as red, green, blue.

    Raises:
        InputError: it is damaged; names it.
    """
    try:
        return _read_tile(path, tile, rows)
    except MemoryError:
        raise
    except Exception as error:  # Each codec has its own exceptions.
        described = ", ".join(f"{axis} {start}" for axis, start in tile.at.items())
        raise InputError(
            f"{path}: the tile at {described} cannot be read ({error}); it is damaged, copy or export the file again"
        ) from error


def _read_tile(path: Path, tile: Tile, rows: range) -> NDArray[Any]:
    start, _ = _segment(path, tile.position, b"ZISRAWSUBBLOCK")
    before, length, axes = struct.unpack("<i4xq28xi", read_stored(path, start, 48).data)
    # The lengths, the directory's entry again, and perhaps padding come first.
    start += max(256, 48 + 20 * axes) + before
    width, height = tile.stored
    shape = (height, width, tile.samples)
    if tile.compression == _STORED:
        if length < tile.nbytes:
            raise ValueError(f"{length} bytes, expected {tile.nbytes}")
        row = tile.nbytes // height
        content = read_stored(path, start + rows.start * row, len(rows) * row)
        return content.view(tile.dtype).reshape(len(rows), *shape[1:])[:, :, ::-1]
    stored = read_stored(path, start, length).tobytes()
    if tile.compression in (_JPEG, _JPEG_XR):
        decode = imagecodecs.jpeg8_decode if tile.compression == _JPEG else imagecodecs.jpegxr_decode
        # An output of the right size keeps small data from declaring a large image.
        voxels = decode(stored, out=np.empty(shape if tile.samples > 1 else shape[:2], tile.dtype))
        return voxels.reshape(shape)[rows.start : rows.stop]
    return _zstandard(stored, tile).reshape(shape)[rows.start : rows.stop, :, ::-1]


def _zstandard(content: bytes, tile: Tile) -> NDArray[Any]:
    """Expand a tile; a header may say that the low bytes of all numbers come first, and then the high bytes."""
    split = False
    if tile.compression == _ZSTD_WITH_HEADER:
        split = content[0] == 3 and content[1] == 1 and bool(content[2] & 1)
        content = content[content[0] :]
    voxels = np.frombuffer(imagecodecs.zstd_decode(content, out=tile.nbytes), np.uint8)
    if len(voxels) != tile.nbytes:
        raise ValueError(f"{len(voxels)} bytes, expected {tile.nbytes}")
    return (voxels.reshape(2, -1).T.copy() if split else voxels).reshape(-1).view(tile.dtype)
