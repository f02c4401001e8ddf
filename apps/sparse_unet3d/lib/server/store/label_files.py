"""Stamps, checksums and label info of label files."""

import hashlib
import json
import logging
import math
import zlib
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypedDict, cast

from lib.server.records import LabelInfo

logger = logging.getLogger(__name__)

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


def read_info(path: Path) -> LabelInfo:
    """Read the label info from a file; return an empty one if the file is missing or damaged."""
    try:
        info = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        info = None
    if not isinstance(info, dict):
        logger.error("%s is damaged and is not used", path)
        return {}
    return cast(LabelInfo, info)


def parse_json(text: str) -> Any:
    """Read JSON; numbers that JSON can't hold (NaN, infinite ones), which earlier versions stored, become None.

    Raises:
        ValueError: not JSON.
    """
    return json.loads(text, parse_constant=lambda _: None, parse_float=_finite)


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def now() -> str:
    """Return the time in UTC, to the second, as ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
