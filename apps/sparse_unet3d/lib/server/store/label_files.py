"""Stamps, checksums and label info of label files."""

import json
import logging
import zlib
from datetime import datetime, timezone
from pathlib import Path
from typing import cast

from lib.server.records import LabelInfo

logger = logging.getLogger(__name__)

Stamp = tuple[int, int]
"""Time of writing in ns, and size in bytes: changes when a file is written."""


def stamp_of(path: Path) -> Stamp:
    """Return the stamp of a file; zeros if there is no file, for example behind a broken link."""
    try:
        state = path.stat()
        return state.st_mtime_ns, state.st_size
    except OSError:
        return 0, 0


def crc32_of(path: Path) -> int:
    """Return the CRC-32 of a file."""
    return zlib.crc32(path.read_bytes())


def read_info(path: Path) -> LabelInfo:
    """Read the label info from a file; return an empty one if the file is missing or damaged."""
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        info = None
    if not isinstance(info, dict):
        logger.error("%s is damaged and is not used", path)
        return {}
    return cast(LabelInfo, info)


def now() -> str:
    """Return the time in UTC, to the second, as ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
