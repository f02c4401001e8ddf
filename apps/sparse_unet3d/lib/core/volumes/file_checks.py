"""Check that a file is complete, which ITK doesn't do for all files that it reads.

ITK reads a truncated NIfTI file as if nothing were missing, and ignores the checksums of compressed voxels.
"""

import gzip
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lib.core.errors import InputError

MAX_RATIO = 1032
"""Most bytes that one byte compressed by gzip or zlib can expand to."""

TEXT_RATIO = 8
"""Most bytes of voxels that one byte of text can stand for."""

BLOCK = 1 << 16
"""Bytes that are read from a file at a time."""

_LONGEST_HEADER = 1 << 22
"""Most bytes of a text header that are read. Headers of Slicer's segmentations are long."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an error while reading a file into an ``InputError``: the file is damaged or inaccessible."""
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


def is_gzip(path: Path) -> bool:
    """Return whether a file is compressed by gzip, by its first bytes."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def header_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of a text header up to the empty line that ends it."""
    left = _LONGEST_HEADER
    while left > 0 and (line := file.readline(left)).strip():
        left -= len(line)
        yield line


def inflated(file: IO[bytes]) -> Iterator[bytes]:
    """Decompress the rest of a file, gzip or zlib, block by block, and check that it is complete.

    Raises:
        EOFError: the end is missing.
        zlib.error: the data is damaged, or its checksum is wrong.
    """
    rest = file.read(BLOCK)
    while True:
        decompress = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        while not decompress.eof:
            if not rest:
                raise EOFError("the end is missing")
            yield decompress.decompress(rest)
            rest = file.read(BLOCK)
        # A gzip file may have several members. Any other data that follows is ignored.
        rest = decompress.unused_data + rest
        if not rest.startswith(b"\x1f\x8b"):
            return
