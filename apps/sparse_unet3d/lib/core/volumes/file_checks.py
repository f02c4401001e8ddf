"""Read a file's header and voxels, no more of them than the header declares, and check that the file is complete.

A small file can declare, or expand to, more than the memory holds. Everything here is therefore limited: the length of
text headers, what lies before and after the voxels, and what compressed voxels expand to.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import InputError

MAX_RATIO = 1032
"""Most bytes that one byte compressed by gzip or zlib can expand to."""

TEXT_RATIO = 8
"""Most bytes of voxels that one byte of text can stand for."""

MOST_BESIDE = 1 << 24
"""Most bytes that may lie before the voxels, or after them if they are compressed."""

_BLOCK = 1 << 16
"""Bytes that are read from a file at a time."""

_EXPANDED_BLOCK = 1 << 18
"""Most bytes that are expanded at a time."""

_TEXT_BLOCK = 1 << 20
"""Bytes of text that are turned into numbers at a time."""

_LONGEST_WORD = 1000
"""Most bytes of a number that is written as text."""

_LONGEST_HEADER = 1 << 22
"""Most bytes of a text header. Headers of Slicer's segmentations are long."""

_MOST_LINES = 20_000
"""Most lines of a text header: about 2000 segments. ITK's time grows with the square of their number."""

_MOST_EMPTY = 1 << 20
"""Compressed bytes that may expand to nothing, such as the file name in a gzip header."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an error while reading a file into an ``InputError``: the file is damaged or inaccessible."""
    try:
        yield
    except InputError:
        raise
    except (EOFError, ValueError, OverflowError, zlib.error) as error:
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
    """Yield the lines of a text header up to the empty line that ends it.

    Raises:
        ValueError: the header is too long, or has a carriage return within a line, which ITK takes for its end.
    """
    left = _LONGEST_HEADER
    for _ in range(_MOST_LINES):
        line = file.readline(left + 1)
        left -= len(line)
        if left < 0:
            break
        if b"\r" in line.removesuffix(b"\n").removesuffix(b"\r"):
            raise ValueError("a carriage return within a line of the header")
        if not line.strip():
            return
        yield line
    raise ValueError(f"a header of more than {_MOST_LINES} lines or {_LONGEST_HEADER} bytes")


def read_stored(path: Path, start: int, count: int, skip: int = 0) -> NDArray[np.uint8]:
    """Read bytes of a file as they are.

    Args:
        path: the file.
        start: where they begin, before ``skip``.
        count: how many.
        skip: bytes to leave out at ``start``; -1 means that they are the last bytes of the file, -2 that one byte
            follows them, and so on.

    Raises:
        EOFError: the file doesn't hold them.
    """
    size = path.stat().st_size
    first = start + skip if skip >= 0 else size - count + skip + 1
    if first < 0 or first + count > size:
        raise EOFError(f"{size} bytes, expected {max(first, 0) + count}")
    content = np.empty(count, np.uint8)
    with path.open("rb") as file:
        file.seek(first)
        file.readinto(content.data)
    return content


def read_compressed(path: Path, start: int, count: int, skip: int = 0) -> NDArray[np.uint8]:
    """Read bytes that a file holds compressed by gzip or zlib, and check that the compressed data is complete.

    Args:
        path: the file.
        start: where the compressed data begins.
        count: how many expanded bytes to read.
        skip: expanded bytes to leave out; negative as in ``read_stored``.

    Raises:
        EOFError: the end is missing, or there are too few bytes.
        ValueError: there are many more bytes.
        zlib.error: the data is damaged, or its checksum is wrong.
    """
    most = max(skip, 0) + count + MOST_BESIDE
    with path.open("rb") as file:
        if skip < 0:
            file.seek(start)
            skip += sum(map(len, _expanded(file, most))) - count + 1
            if skip < 0:
                raise EOFError(f"too few bytes, expected {count}")
        file.seek(start)
        content = np.empty(count, np.uint8)
        at = -skip
        for block in _expanded(file, most):
            part, to = np.frombuffer(block, np.uint8)[max(-at, 0) :], content[max(at, 0) :]
            fitting = min(len(part), len(to))
            to[:fitting] = part[:fitting]
            at += len(block)
    if at < count:
        raise EOFError(f"{at + skip} bytes uncompressed, expected {count + skip}")
    return content


def read_text(path: Path, start: int, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Read numbers that a file holds as text, separated by white space or commas.

    Args:
        path: the file.
        start: where the text begins.
        count: how many numbers.
        dtype: their type.

    Raises:
        EOFError: there are fewer numbers.
        ValueError, OverflowError: a word is no number of this type.
    """
    numbers, found, rest = np.empty(count, dtype), 0, b""
    with path.open("rb") as file:
        file.seek(start)
        while found < count and (piece := file.read(_TEXT_BLOCK)):
            # The last word may go on in the next piece.
            words = (rest + piece.replace(b",", b" ") + b".").split()
            rest = words.pop()[:-1]
            if len(rest) > _LONGEST_WORD:
                raise ValueError(f"{rest[:20]!r}… is no number")
            words = words[: count - found]
            numbers[found : found + len(words)] = np.array(words, bytes).astype(dtype)
            found += len(words)
    if rest and found < count:
        numbers[found] = np.array(rest).astype(dtype)
        found += 1
    if found < count:
        raise EOFError(f"{found} numbers, expected {count}")
    return numbers


def read_hexadecimal(path: Path, start: int, count: int) -> NDArray[np.uint8]:
    """Read bytes that a file holds as pairs of hexadecimal digits.

    Args:
        path: the file.
        start: where the digits begin.
        count: how many bytes.

    Raises:
        EOFError: there are fewer.
        ValueError: there is something else.
    """
    with path.open("rb") as file:
        file.seek(start)
        content = np.frombuffer(bytes.fromhex(file.read().decode("ascii")), np.uint8)
    if len(content) < count:
        raise EOFError(f"{len(content)} bytes, expected {count}")
    return content[:count]


def first_bytes(path: Path, count: int) -> bytes:
    """Return the first bytes of a file, expanded if it is compressed by gzip; fewer if there are fewer.

    Raises:
        ValueError, EOFError, zlib.error: the compressed data is damaged.
    """
    with path.open("rb") as file:
        if not is_gzip(path):
            return file.read(count)
        content = b""
        for block in _expanded(file, count + _EXPANDED_BLOCK):
            content += block
            if len(content) >= count:
                break
    return content[:count]


def _expanded(file: IO[bytes], most: int) -> Iterator[bytes]:
    """Expand the rest of a file, gzip or zlib, block by block, and check that it is complete.

    Args:
        file: the file.
        most: how many bytes it may expand to.

    Raises:
        EOFError: the end is missing.
        ValueError: it expands to more, or much of it expands to nothing.
        zlib.error: the data is damaged, or its checksum is wrong.
    """
    taken = expanded = 0
    rest = file.read(_BLOCK)
    while True:
        decompress = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        while not decompress.eof:
            block = decompress.decompress(rest, _EXPANDED_BLOCK)
            if not block and not rest:
                raise EOFError("the end is missing")
            taken += len(rest) - len(decompress.unconsumed_tail) - len(decompress.unused_data)
            expanded += len(block)
            if expanded > most:
                raise ValueError(f"it expands to more than {most} bytes")
            if taken > 2 * expanded + _MOST_EMPTY:
                raise ValueError(f"{taken} bytes of it expand to no more than {expanded}")
            yield block
            rest = decompress.unconsumed_tail or (b"" if decompress.eof else file.read(_BLOCK))
        # A gzip file may have several members. Any other data that follows is ignored.
        rest = decompress.unused_data
        if len(rest) < 2:
            rest += file.read(_BLOCK)
        if not rest.startswith(b"\x1f\x8b"):
            return
