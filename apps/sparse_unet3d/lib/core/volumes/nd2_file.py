"""What the package nd2 finds in ND2 files, after checks that it leaves out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import InputError

from .extra_package import extra_package, reading_by_package
from .nd2_metadata import decoded
from .voxel_size import MILLIMETRES, if_valid
from .xml_checks import check_xml

_JPEG_2000 = b"\0\0\0\x0cjP  "
"""The first bytes of early ND2 files."""

_LONGEST_XML = 1 << 22
"""Most bytes of XML, in which early versions keep metadata."""

_METADATA = {
    name + end
    for name, ends in {
        b"ImageAttributes": (b"!", b"LV!"),
        b"ImageMetadata": (b"!", b"LV!"),
        b"ImageMetadataSeq": (b"|0!", b"LV|0!"),
        b"ImageTextInfo": (b"!", b"LV!"),
    }.items()
    for end in ends
}
"""Chunks of metadata that are read."""

_AXES = {"TimeLoop": "t", "NETimeLoop": "t", "XYPosLoop": "p", "ZStackLoop": "z"}
"""Axes by what moves from plane to plane."""

_TYPES: dict[int, np.dtype[Any]] = {8: np.dtype("<u1"), 16: np.dtype("<u2"), 32: np.dtype("<f4")}
"""Types of values by their bits."""


@dataclass(frozen=True)
class Recording:
    """What is in a file.

    Attributes:
        loops: number of steps along ``z``, ``t`` (time) and ``p`` (position of the stage), the slowest first; the
            number of a plane counts them.
        shape: (X, Y).
        row: bytes from one row of a plane to the next.
        components: of each pixel: channels, or red, green and blue.
        dtype: of the stored values.
        is_compressed: whether each plane is compressed by zlib.
        size: of a voxel along X, Y, Z in mm; None if the file doesn't say it.
        planes: where each plane that was recorded is in the file.
    """

    loops: dict[str, int]
    shape: tuple[int, int]
    row: int
    components: int
    dtype: np.dtype[Any]
    is_compressed: bool
    size: tuple[float, float, float] | None
    planes: dict[int, int]


def opened(file: Path) -> Recording:
    """Read a file's metadata, and where its planes are.

    Raises:
        InputError: no such file, no ND2 file, one by an early version of NIS-Elements, damaged, other axes, values or
            compression that can't be used, the package ``nd2`` isn't installed.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file; check the path")
    nd2 = extra_package("nd2", file)
    with reading_by_package(file):
        with file.open("rb") as stream:
            if stream.read(len(_JPEG_2000)) == _JPEG_2000:
                raise InputError(
                    f"{file}: an ND2 file by NIS-Elements before version 3 (JPEG 2000), which can't be read; save it "
                    "again by a newer version, or as OME-TIFF"
                )
        with nd2.ND2File(file) as opened_file:
            reader = opened_file._rdr
            for name in _METADATA & set(reader.chunkmap):
                content = reader._load_chunk(name)
                if not content.startswith(b"<"):
                    # nd2 takes them from here, and doesn't decode them itself.
                    reader._cached_decoded_chunks[name, False] = decoded(content)
                    continue
                if len(content) > _LONGEST_XML:
                    raise ValueError(f"{len(content)} bytes of XML, expected at most {_LONGEST_XML}")
                check_xml(content.replace(b"\0", b"").decode("latin-1"))
            # What nd2 says of planes doesn't tell missing ones from black ones.
            return _recording(file, opened_file, reader.chunkmap)


def _recording(file: Path, opened_file: Any, chunks: dict[bytes, tuple[int, int]]) -> Recording:
    """Return what the metadata says.

    Raises:
        InputError: other axes, values or compression that can't be used.
    """
    attributes, channels = opened_file.attributes, opened_file.metadata.channels
    axes = [_AXES.get(loop.type, loop.type) for loop in opened_file.experiment]
    volume = channels[0].volume if channels else None
    if volume and "time" in volume.axesInterpretation:
        axes += ["time along a line"]
    if not set(axes) <= set(_AXES.values()) or len(set(axes)) < len(axes):
        raise InputError(
            f"{file}: the axes are X, Y, {', '.join(axes)}; expected X, Y, z, t (time) and p (position), each once; "
            "save each part as one file"
        )
    bits, compression = attributes.bitsPerComponentInMemory, attributes.compressionType
    if bits not in _TYPES or compression not in (None, "none", "lossless"):
        raise InputError(
            f"{file}: values of {bits} bits with {compression or 'no'} compression; expected 8, 16 or 32 bits without "
            "loss; save it so by NIS-Elements"
        )
    size = None
    if volume and all(volume.axesCalibrated):
        size = if_valid([step * MILLIMETRES["µm"] for step in volume.axesCalibration])
    return Recording(
        loops={axis: loop.count for axis, loop in zip(axes, opened_file.experiment, strict=True)},
        shape=(attributes.widthPx, attributes.heightPx),
        row=attributes.widthBytes,
        components=attributes.componentCount,
        dtype=_TYPES[bits],
        is_compressed=compression == "lossless",
        size=size,
        planes={int(name[13:-1]): start for name, (start, _) in chunks.items() if name.startswith(b"ImageDataSeq|")},
    )
