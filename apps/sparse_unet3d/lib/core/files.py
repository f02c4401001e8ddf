"""Write files that other programs read: under a temporary name first, then renamed into place."""

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UMASK = os.umask(0o077)
"""The process's umask, read once: reading it means setting it, which would affect other threads."""
os.umask(UMASK)


WRITING = ".writing-"
"""Prefix of the names of incomplete files."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a path to write to, in the same folder and with the same ending, and rename it to ``path`` on success.

    Readers see the old file or the new one, never a partial one. On an exception the old file stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    ending = "".join(path.suffixes[-2:]) if path.name.endswith(".gz") else path.suffix
    handle, name = tempfile.mkstemp(prefix=WRITING, suffix=ending, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    # Files from mkstemp are readable by their owner only.
    temporary.chmod(0o666 & ~UMASK)
    try:
        yield temporary
        with temporary.open("r+b") as written:  # Windows syncs only files that are open for writing
            os.fsync(written.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power failure. Windows can't open folders and doesn't need this."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems can't sync folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, renamed into place."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
