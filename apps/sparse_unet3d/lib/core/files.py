"""Files that others read are written beside their place and renamed into it."""

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

UMASK = os.umask(0o077)
"""The process's own, read once: it can only be read by setting it, which other threads would notice."""
os.umask(UMASK)


WRITING = ".writing-"
"""How the names of files begin that are not complete yet."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a path to write to, in the same folder and with the same ending; rename it to ``path`` on success.

    A reader sees the old file or the new one, never a part. On an exception the old file stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    ending = "".join(path.suffixes[-2:]) if path.name.endswith(".gz") else path.suffix
    handle, name = tempfile.mkstemp(prefix=WRITING, suffix=ending, dir=path.parent)
    os.close(handle)
    beside = Path(name)
    # mkstemp makes files that only their owner can read; these are to be shared like any other file.
    beside.chmod(0o666 & ~UMASK)
    try:
        yield beside
        with beside.open("r+b") as written:  # Windows syncs only what is open for writing
            os.fsync(written.fileno())
        beside.replace(path)
        _sync_folder(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Have a renamed file survive a loss of power; Windows, which can't open folders, does so by itself."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems can't.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, renamed into place."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
