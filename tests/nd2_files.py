"""ND2 files, written as Nikon's and other readers expect them, without the app's code."""

import struct
import zlib
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

LOOPS: dict[str, tuple[int, dict[str, Any]]] = {
    "t": (1, {"dStart": 0.0, "dPeriod": 1.0, "dDuration": 1.0}),
    "p": (2, {"bUseZ": False}),
    "z": (4, {"dZLow": 0.0, "dZHigh": 0.0}),
    "custom": (7, {}),
}
"""The number and the fields of each axis."""


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a file; its name is filled up so that chunks of voxels begin at the same place as Nikon's."""
    length = 32 if name.startswith(b"ND2") else 4072
    return struct.pack("<IIQ", 0x0ABECEDA, length, len(content)) + name.ljust(length, b"\0") + content


def binary(items: Mapping[str, Any]) -> bytes:
    """Metadata as in files of version 3: for each item its type, name and value."""
    content = b""
    for name, value in items.items():
        start = bytes([_kind(value), len(name) + 1]) + f"{name}\0".encode("utf-16-le")
        if isinstance(value, Mapping):
            inside = binary(value)
            length = len(start) + 12 + len(inside)
            content += start + struct.pack("<IQ", len(value), length) + inside + bytes(8 * len(value))
        elif isinstance(value, bytes):
            content += start + struct.pack("<Q", len(value)) + value
        elif isinstance(value, str):
            content += start + f"{value}\0".encode("utf-16-le")
        else:
            content += start + struct.pack({1: "<B", 3: "<I", 6: "<d"}[start[0]], value)
    return content


def _kind(value: Any) -> int:
    kinds = {bool: 1, int: 3, float: 6, str: 8, bytes: 9, dict: 11}
    return kinds[type(value)]


def xml(items: Mapping[str, Any]) -> bytes:
    """Metadata as in files of version 2."""
    ((_, inside),) = items.items()
    return f'<?xml version="1.0" encoding="UTF-8"?><variant version="1.0">{_xml("", inside)}</variant>'.encode()


def _xml(name: str, value: Any) -> str:
    tag = name or "no_name"
    if isinstance(value, Mapping):
        return f'<{tag} runtype="CLxListVariant">{"".join(_xml(*item) for item in value.items())}</{tag}>'
    kind = {bool: "bool", int: "lx_uint32", float: "double", str: "CLxStringW"}[type(value)]
    return f"<{tag} runtype={quoteattr(kind)} value={quoteattr(str(value).lower())}/>"


def compressed(content: bytes) -> bytes:
    """Metadata that is compressed."""
    return b"L\0" + bytes(10) + zlib.compress(content, 9)


def metadata(
    array: NDArray[Any],
    axes: str,
    size: tuple[float, float, float] | None = (0.4, 0.4, 1.25),
    compress: bool = False,
    row: int | None = None,
    planes: int | None = None,
    line_scan: bool = False,
    **changed: Any,
) -> dict[str, dict[str, Any]]:
    """What a file says about voxels (…, Y, X, C) whose other axes have these letters.

    Args:
        array: the voxels.
        axes: of the loops, the slowest first.
        size: of a voxel along X, Y, Z in micrometres; X and Y have the same.
        compress: whether planes are compressed.
        row: bytes of a row.
        planes: number of channels, which share the components of a pixel; None if each has one.
        line_scan: whether X is time.
        changed: attributes that are different.
    """
    *counts, height, width, components = array.shape
    bits = 8 * array.dtype.itemsize
    attributes = {
        "uiWidth": width,
        "uiWidthBytes": row or width * components * array.dtype.itemsize,
        "uiHeight": height,
        "uiComp": components,
        "uiBpcInMemory": bits,
        "uiBpcSignificant": bits,
        "uiSequenceCount": int(np.prod(counts)),
        "eCompression": 0 if compress else 2,
        **changed,
    }
    experiment: dict[str, Any] = {}
    letters = [axes] if axes in LOOPS else list(axes)
    for letter, count in reversed(list(zip(letters, counts, strict=True))):
        kind, fields = LOOPS[letter]
        of_loop: dict[str, Any] = {"uiCount": count, **fields}
        if letter == "z":
            of_loop["dZStep"] = size[2] if size else 0.0
        if letter == "p":
            of_loop["Points"] = {f"i{number:010}": {"dPosX": float(number)} for number in range(count)}
        level = {"ppNextLevelEx": {"": experiment}} if experiment else {}
        experiment = {"eType": kind, "uLoopPars": of_loop, **level}
    channels = planes or components
    of_channel = {"uiCompCount": components // channels, "sDescription": "dye", "pFluorescentProbe": {"m_sName": "x"}}
    picture = {
        "bCalibrated": size is not None,
        "dCalibration": size[0] if size else 1.0,
        "ePictureXAxis": 2 if line_scan else 1,
        "sPicturePlanes": {"uiCount": channels, "sPlaneNew": {f"a{number}": of_channel for number in range(channels)}},
    }
    return {
        "ImageAttributes": {"SLxImageAttributes": attributes},
        "ImageMetadata": {"SLxExperiment": experiment},
        "ImageMetadataSeq|0": {"SLxPictureMetadata": picture},
    }


def chunks(content: Mapping[bytes, bytes], version: int = 3) -> bytes:
    """A file with these chunks, and where each of them is."""
    written, places = b"", b""
    start = {b"ND2 FILE SIGNATURE CHUNK NAME01!": f"Ver{version}.0".encode().ljust(64, b"\0")}
    for name, of_chunk in {**start, **content}.items():
        places += name + struct.pack("<QQ", len(written), len(of_chunk))
        written += chunk(name, of_chunk)
    end = b"ND2 CHUNK MAP SIGNATURE 0000001!" + struct.pack("<Q", len(written))
    return written + chunk(b"ND2 FILEMAP SIGNATURE NAME 0001!", places + end)


def nd2_chunks(
    array: NDArray[Any], axes: str = "z", version: int = 3, pad: int = 0, **options: Any
) -> dict[bytes, bytes]:
    """The chunks of a file with voxels (…, Y, X, C) whose other axes have these letters.

    Args:
        array: the voxels.
        axes: of the loops, the slowest first.
        version: of the format.
        pad: bytes after each row.
        options: of ``metadata``.
    """
    *_, height, width, components = array.shape
    rows = np.ascontiguousarray(array).view(np.uint8).reshape(-1, height, width * components * array.dtype.itemsize)
    padded = np.pad(rows, ((0, 0), (0, 0), (0, pad)), constant_values=77)
    found = {}
    for name, content in metadata(array, axes, row=padded.shape[2], **options).items():
        if version < 3:
            found[f"{name}!".encode()] = xml(content)
        else:
            kind, *of_plane = name.split("|")
            found["|".join([f"{kind}LV", *of_plane]).encode() + b"!"] = binary(content)
    for number, plane in enumerate(padded):
        voxels = zlib.compress(plane.tobytes()) if options.get("compress") else plane.tobytes()
        found[b"ImageDataSeq|%d!" % number] = struct.pack("<d", 0.0) + voxels
    return found


def nd2(array: NDArray[Any], axes: str = "z", version: int = 3, **options: Any) -> bytes:
    """A file with voxels, see ``nd2_chunks``."""
    return chunks(nd2_chunks(array, axes, version, **options), version)
