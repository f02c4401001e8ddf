"""CZI files, written by hand as Zeiss' description of the format says, without the app's code."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

PIXELS = {("u1", 1): 0, ("u2", 1): 1, ("f4", 1): 2, ("u1", 3): 3, ("u2", 3): 4, ("f4", 3): 8}
"""The number of a pixel type."""


class Block(NamedTuple):
    """A tile.

    Attributes:
        voxels: (rows, columns), or (rows, columns, 3) as red, green, blue.
        at: its index along each axis.
        factor: of its level.
        compression: its number.
        data: the stored bytes, unless the voxels are stored as they are.
    """

    voxels: NDArray[Any]
    at: Mapping[str, int]
    factor: int = 1
    compression: int = 0
    data: bytes | None = None


def xml(x: float, y: float, z: float) -> str:
    """The metadata, with the voxel size in micrometres."""
    items = "".join(
        f'<Distance Id="{axis}"><Value>{size * 1e-6!r}</Value></Distance>'
        for axis, size in zip("XYZ", (x, y, z), strict=True)
    )
    return f"<ImageDocument><Metadata><Scaling><Items>{items}</Items></Scaling></Metadata></ImageDocument>"


def segment(name: bytes, content: bytes) -> bytes:
    return struct.pack("<16sqq", name, len(content), len(content)) + content


def write_czi(path: Path, blocks: Sequence[Block], metadata: str | None = None) -> Path:
    path.write_bytes(czi(blocks, metadata))
    return path


def czi(blocks: Sequence[Block], metadata: str | None = None) -> bytes:
    """The content of a file: its header, the tiles, the metadata if there is any, and the directory."""
    content, entries = bytes(544), []
    for voxels, at, factor, compression, data in blocks:
        rows, columns, *samples = voxels.shape
        sides = {"X": (at.get("X", 0), factor * columns, columns), "Y": (at.get("Y", 0), factor * rows, rows)}
        sides |= {axis: (index, 1, 1) for axis, index in at.items() if axis not in "XY"}
        kind = PIXELS[voxels.dtype.str[1:], samples[0] if samples else 1]
        entry = struct.pack("<2siqiiB5xi", b"DV", kind, len(content), 0, compression, 2 * (factor > 1), len(sides))
        for axis, (first, size, stored) in sides.items():
            entry += struct.pack("<4siifi", axis.encode(), first, size, first, stored)
        entries.append(entry)
        stored_bytes = (voxels[..., ::-1] if samples else voxels).tobytes() if data is None else data
        start = struct.pack("<iiq", 0, 0, len(stored_bytes)) + entry
        content += segment(b"ZISRAWSUBBLOCK", start.ljust(256, b"\0") + stored_bytes)
    place = 0
    if metadata is not None:
        place, text = len(content), metadata.encode()
        content += segment(b"ZISRAWMETADATA", struct.pack("<ii", len(text), 0).ljust(256, b"\0") + text)
    directory = len(content)
    content += segment(b"ZISRAWDIRECTORY", struct.pack("<i", len(entries)).ljust(128, b"\0") + b"".join(entries))
    header = struct.pack("<4i32xiqqiq", 1, 0, 0, 0, 0, directory, place, 0, 0)
    return segment(b"ZISRAWFILE", header.ljust(512, b"\0")) + content[544:]
