"""Stamps and checksums of label files."""

import hashlib
import zlib
from datetime import datetime, timezone
from pathlib import Path
from typing import TypedDict

Stamp = tuple[int, int]
"""Time of writing in ns, and size in bytes: changes when a file is written."""

NO_FILE: Stamp = (0, 0)
"""The stamp of a file that doesn't exist."""


class Digests(TypedDict):
    """Checksums of a file, as they are kept in its label info."""

    crc32: int
    sha256: str


def stamp_of(path: Path) -> Stamp:
    """Return the stamp of a file; ``NO_FILE`` if there is no file, for example behind a broken link."""
    try:
        state = path.stat()
        return state.st_mtime_ns, state.st_size
    except OSError:
        return NO_FILE


def digests_of(path: Path) -> Digests:
    """Return the checksums of a file."""
    content = path.read_bytes()
    return {"crc32": zlib.crc32(content), "sha256": hashlib.sha256(content).hexdigest()}


def crc32_of(path: Path) -> int:
    """Return the CRC-32 of a file."""
    return zlib.crc32(path.read_bytes())


def now() -> str:
    """Return the time in UTC, to the second, as ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
