"""What ITK doesn't check of a file that it reads: whether it is of a kind that Slicer opens, and whether it is whole.

ITK reads NIfTI files that were cut off as if nothing were missing, and passes over checksums.
"""

import gzip
import math
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from lib.core.errors import InputError

_MAX_RATIO = 1032
"""So many bytes at most come out of one compressed by the method of gzip and zlib."""

_TEXT_RATIO = 8
"""So many bytes of voxels at most are written in one of text."""

_BLOCK = 1 << 16

_NIFTI_HEADER = 348
"""Bytes of a NIfTI-1 header."""

_LONGEST_HEADER = 1 << 22
"""Bytes of an NRRD or MetaImage header that are read at most; Slicer's segmentations have long ones."""


def inspect(path: Path, ending: str) -> int:
    """Look at the header of a file before ITK does.

    Args:
        path: of the file.
        ending: ``.nii``, ``.nii.gz``, ``.nrrd`` or ``.mha``.

    Returns:
        How many bytes of voxels the file can hold at most.

    Raises:
        InputError: no such file, damaged or incomplete, of a kind that Slicer can't open, or voxels in another file.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    with _reading(path):
        if ending == ".nrrd":
            return _inspect_nrrd(path)
        if ending == ".mha":
            return _inspect_mha(path)
        return _inspect_nifti(path)


def verify(path: Path, ending: str) -> None:
    """Check that all compressed voxels are there, and their checksum; ITK checks that all others are there.

    Args:
        path: of the file.
        ending: ``.nrrd`` or ``.mha``.

    Raises:
        InputError: the file is damaged or incomplete.
    """
    with _reading(path), path.open("rb") as file:
        if ending == ".nrrd":
            fields = _fields(_lines(file))
            # After a line skip the compressed part begins elsewhere.
            is_compressed = fields.get("encoding", "").lower() in ("gzip", "gz") and "line skip" not in fields
        else:
            is_compressed = _is_true(_meta_fields(_meta_lines(file)).get("compresseddata", ""))
        if is_compressed:
            for _ in _inflated(file):
                pass


def nifti_voxels(path: Path) -> tuple[NDArray[Any], float, float]:
    """Read the voxels of a NIfTI-1 file as they are stored: ITK makes 0 of those that are NaN or infinite.

    Returns:
        The array, in the order of the file's axes, any byte order, a type with fields where the voxels are colours;
        and by what its values are to be multiplied and what is then to be added.

    Raises:
        InputError: the file is damaged or incomplete.
        MemoryError: memory is short.
    """
    with _reading(path), path.open("rb") as file:
        header = nibabel.Nifti1Header(_nifti_header(path)[0], check=False)
        dtype, shape = header.get_data_dtype(), header.get_data_shape()
        # As ITK, which never takes the header itself for voxels.
        start = max(_NIFTI_HEADER, int(header["vox_offset"]))
        content = np.empty(start + math.prod(shape) * dtype.itemsize, np.uint8)
        at = 0
        for block in _inflated(file) if _is_gzip(path) else iter(partial(file.read, _BLOCK), b""):
            part = np.frombuffer(block, np.uint8)[: len(content) - at]
            content[at : at + len(part)] = part
            at += len(part)
        if at < len(content):
            raise EOFError(f"{at} bytes, expected {len(content)}")
        array: NDArray[Any] = np.ndarray(shape, dtype, content.data, offset=start, order="F")
        # As ITK takes what can't be meant.
        slope, intercept = (float(header[name]) for name in ("scl_slope", "scl_inter"))
        is_meant = math.isfinite(slope) and abs(slope) > np.finfo(np.float64).eps
        return array, slope if is_meant else 1.0, intercept if math.isfinite(intercept) else 0.0


def nrrd_fields(path: Path) -> dict[str, str]:
    """Return the fields of an NRRD header as text, their names in small letters."""
    with path.open("rb") as file:
        return _fields(_lines(file))


def is_slicer_segmentation(path: str | Path) -> bool:
    """Tell one of 3D Slicer's segmentations by what is in the file, whatever its name; no for what can't be read."""
    try:
        state = os.stat(path)
        return _is_slicer_segmentation(str(path), state.st_mtime_ns, state.st_size)
    except OSError:
        return False


@lru_cache(maxsize=10_000)
def _is_slicer_segmentation(path: str, written: int, size: int) -> bool:
    """Look into a file; once, as long as it is written at the same time and of the same size."""
    with open(path, "rb") as file:
        if file.read(4) != b"NRRD":
            return False
        # Keys in the header of every segmentation begin with one of these, also where it has no segment.
        return any(line.startswith((b"Segment0_", b"Segmentation_")) for line in _lines(file))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say of a file that can't be read whether it is damaged or out of reach."""
    try:
        yield
    except InputError:
        raise
    except (EOFError, ValueError, struct.error, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); the file is damaged or incomplete, copy or export it again"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}); check the permissions of the file and the disk") from error


# NIfTI


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _is_true(value: str) -> bool:
    """Read a MetaImage flag, of which ITK looks at the first letter."""
    return value[:1] in ("T", "t", "1")


def _nifti_header(path: Path) -> tuple[bytes, str]:
    """Return the first 348 bytes, and the byte order of the numbers in them."""
    with gzip.open(path) if _is_gzip(path) else path.open("rb") as file:
        header = file.read(_NIFTI_HEADER)
    for order in "<>":
        length = struct.unpack_from(order + "i", header)[0]
        if length == 540:
            raise InputError(
                f"{path}: a NIfTI-2 file, which 3D Slicer can't open; save it as NIfTI-1, e.g. in Python: image = "
                "nibabel.load(old); nibabel.save(nibabel.Nifti1Image.from_image(image), new)"
            )
        if length == len(header) == _NIFTI_HEADER:
            return header, order
    raise ValueError("no NIfTI header")


def _nifti_bytes(path: Path) -> int:
    """Return how many bytes a NIfTI file has to have, uncompressed."""
    header, order = _nifti_header(path)
    rank, *sizes = struct.unpack_from(order + "8h", header, 40)
    if not 1 <= rank <= 7 or min(sizes[:rank]) < 1:
        raise ValueError(f"array of shape {tuple(sizes[: max(rank, 0)])}")
    (bits,), (start,) = struct.unpack_from(order + "h", header, 72), struct.unpack_from(order + "f", header, 108)
    if bits < 1 or start < 0:
        raise ValueError(f"{bits} bits per voxel from byte {start} on")
    needed: int = max(_NIFTI_HEADER, int(start)) + math.prod(sizes[:rank]) * bits // 8
    return needed


def _inspect_nifti(path: Path) -> int:
    name, needed, size = path.name, _nifti_bytes(path), path.stat().st_size
    magic = _nifti_header(path)[0][344:348]
    if magic != b"n+1\0":
        raise InputError(
            f"{path}: the header says {magic!r}, expected a NIfTI-1 file with the voxels in it (b'n+1\\x00'); save "
            "header and voxels in one .nii or .nii.gz file"
        )
    ending = name[name.lower().rfind(".nii") :]
    if ending not in (ending.lower(), ending.upper()):
        raise InputError(f"{path}: 3D Slicer can't open files that end in {ending}; rename it to {ending.lower()}")
    capacity = size * (_MAX_RATIO if _is_gzip(path) else 1)
    if needed > capacity:
        raise EOFError(f"{size} bytes, expected {needed}{' uncompressed' if capacity > size else ''}")
    # What is read as rescaled numbers takes at most 8 bytes instead of one.
    return 8 * capacity


# NRRD


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Give the lines of a header up to the empty one that ends it."""
    left = _LONGEST_HEADER
    while left > 0 and (line := file.readline(left)).strip():
        left -= len(line)
        yield line


def _fields(lines: Iterator[bytes]) -> dict[str, str]:
    fields = {}
    for line in lines:
        name, colon, value = line.decode("utf-8", errors="replace").partition(":")
        if colon and not value.startswith("=") and not name.startswith("#"):
            fields[name.strip().lower()] = value.strip()
    return fields


def _inspect_nrrd(path: Path) -> int:
    with path.open("rb") as file:
        if file.readline(16)[:4] != b"NRRD":
            raise ValueError("no NRRD header")
        fields = _fields(_lines(file))
        left = path.stat().st_size - file.tell()
    if "data file" in fields or "datafile" in fields:
        raise InputError(f"{path}: the voxels are in another file; save header and voxels in one .nrrd file")
    if "complex" in fields.get("kinds", "").lower():
        raise InputError(f"{path}: the values are complex; expected integers or real numbers, save e.g. the magnitude")
    encoding = fields.get("encoding", "").lower()
    if encoding in ("bzip2", "bz2"):
        raise InputError(
            f"{path}: compressed by bzip2, which 3D Slicer can't open; save it with encoding gzip or raw, e.g. in "
            "Python: nrrd.write(new, *nrrd.read(old)) after header['encoding'] = 'gzip'"
        )
    return left * (_MAX_RATIO if encoding in ("gzip", "gz") else 1 if encoding == "raw" else _TEXT_RATIO)


# MetaImage


def _meta_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Give the lines of a header up to the one that says where the voxels are."""
    for line in _lines(file):
        yield line
        if line.lower().startswith(b"elementdatafile"):
            return


def _meta_fields(lines: Iterator[bytes]) -> dict[str, str]:
    parts = (line.decode("utf-8", errors="replace").partition("=") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in parts}


def _inspect_mha(path: Path) -> int:
    with path.open("rb") as file:
        fields = _meta_fields(_meta_lines(file))
        left = path.stat().st_size - file.tell()
    if "elementdatafile" not in fields:
        raise ValueError("no MetaImage header")
    if fields["elementdatafile"].upper() != "LOCAL":
        raise InputError(f"{path}: the voxels are in another file; save header and voxels in one .mha file")
    if not _is_true(fields.get("binarydata", "True")):
        return left * _TEXT_RATIO
    return left * (_MAX_RATIO if _is_true(fields.get("compresseddata", "")) else 1)


def _inflated(file: IO[bytes]) -> Iterator[bytes]:
    """Decompress what follows in a file, by gzip or zlib, in blocks, to its end and checksum."""
    rest = file.read(_BLOCK)
    while True:
        decompress = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        while not decompress.eof:
            if not rest:
                raise EOFError("the end is missing")
            yield decompress.decompress(rest)
            rest = file.read(_BLOCK)
        # A gzip file may have several parts; whatever else follows is none of it.
        rest = decompress.unused_data + rest
        if not rest.startswith(b"\x1f\x8b"):
            return
