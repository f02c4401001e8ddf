"""Write files that others read: beside their place, then renamed into it, so that no loss of power undoes it."""

import errno
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import InputError
from .processes import has_ended, this_process

logger = logging.getLogger(__name__)

WRITING = ".writing-"
"""Beginning of the names of incomplete files; the name of the process that writes follows."""

UNKNOWN_FOR = 3600
"""Seconds after which an incomplete file of an unknown process counts as abandoned."""

IN_USE_FOR = 2.0
"""Seconds to wait on Windows for a reader to close the file that is to be replaced."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a path to write to, in the same folder and with the same ending, and rename it to ``path`` on success.

    Readers see the old file or the new one, never a part. On an exception in the block the old file stays.

    Raises:
        OSError: the file can't be written, renamed, or made to survive a loss of power.
    """
    path = Path(path)
    make_folder(path.parent)
    beside = name_beside(path)
    try:
        yield beside
        sync_file(beside)
        replace(beside, path)
    except BaseException:
        # What can't be removed now is removed at the next start.
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside ``path`` to fill, and rename it to ``path`` on success. On an exception it is removed.

    Raises:
        InputError: ``path`` exists and isn't an empty folder.
        OSError: the folder can't be written, renamed, or made to survive a loss of power.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: exists already and isn't empty; give a new folder")
    path = path.absolute()
    make_folder(path.parent)
    remove_abandoned(path.parent)
    beside = name_beside(path)
    beside.mkdir()
    try:
        yield beside
        for inner in beside.rglob("*"):
            if inner.is_file():
                sync_file(inner)
            else:
                sync_folder(inner)
        sync_folder(beside)
        if path.exists():
            path.rmdir()
        os.rename(beside, path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    sync_folder(path.parent)


def name_beside(path: Path) -> Path:
    """Return an unused name in the folder of ``path``, with its ending, for a file that isn't complete."""
    ending = "".join(path.suffixes[-2:]) if path.name.endswith(".gz") else path.suffix
    return path.parent / f"{WRITING}{this_process()}-{uuid.uuid4().hex[:12]}{ending}"


def replace(source: Path, target: Path) -> None:
    """Rename a file, over another one if that exists. On Windows, wait for those who read the other one."""
    end = time.monotonic() + IN_USE_FOR
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if os.name != "nt" or time.monotonic() > end:
                raise
            time.sleep(0.05)


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, so that they survive a loss of power."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_file(path: Path) -> None:
    """Make the content of a file survive a loss of power."""
    with path.open("r+b") as written:  # Windows syncs only what is open for writing
        os.fsync(written.fileno())


def sync_folder(folder: Path) -> None:
    """Make a renaming survive a loss of power. Windows can't open folders and doesn't need it."""
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


def remove_abandoned(folder: Path) -> None:
    """Remove from a folder the incomplete files and folders of processes that have ended; its subfolders stay."""
    for path in sorted(folder.glob(f"{WRITING}*")):
        ended = has_ended(path.name.removeprefix(WRITING))
        try:
            if ended or (ended is None and path.stat().st_mtime < time.time() - UNKNOWN_FOR):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                logger.info("%s: removed; the process that wrote it has ended", path)
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.warning("%s: left by a process that has ended, can't be removed: %s", path, error)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, renamed into place."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
