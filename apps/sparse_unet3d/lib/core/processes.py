"""Names for processes that tell a living one from one that has ended, also after its number was given again."""

import functools
import os
import re
import socket
import zlib
from pathlib import Path

import psutil

CLOCK = 60
"""Seconds by which the start of one process may seem to differ, as after the clock was set."""

_NAME = re.compile(r"([0-9a-f]{8})-([0-9]{1,10})-([0-9]{1,12})")


def this_process() -> str:
    """Return the name of this process: where it runs, its number, and when it started, in letters for file names."""
    return _this_process(os.getpid())


def name_of(pid: int) -> str:
    """Return the name of a process of this computer.

    Raises:
        psutil.NoSuchProcess: it has ended.
    """
    return f"{_here()}-{pid}-{int(psutil.Process(pid).create_time())}"


@functools.lru_cache(maxsize=1)  # by number, because a forked process is another one
def _this_process(pid: int) -> str:
    return name_of(pid)


def _here() -> str:
    """Return where process numbers are unique: this computer, and this container, which may have the same host name."""
    try:
        container = os.readlink(Path("/proc/self/ns/pid"))
    except OSError:
        container = ""
    return f"{zlib.crc32(f'{socket.gethostname()} {container}'.encode()):08x}"


def is_here(name: str) -> bool:
    """Tell whether a process, by its name, is one of this computer and this container."""
    return name.startswith(f"{_here()}-")


def has_ended(name: str) -> bool | None:
    """Tell whether a process has ended.

    Args:
        name: its name, from ``this_process``; more characters may follow.

    Returns:
        None if nobody here knows: the process ran on another computer or in another container, or this is no such name.
    """
    found = _NAME.match(name)
    if not found or found[1] != _here():
        return None
    if int(found[2]) == os.getpid():
        return found[0] != this_process()
    try:
        process = psutil.Process(int(found[2]))
        is_later: bool = process.create_time() > int(found[3]) + CLOCK
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
    return is_later or not is_used(int(found[2]))


def is_used(pid: int) -> bool:
    """Tell whether a process of this number runs here."""
    try:
        # Of an ended process whose parent hasn't noticed, only the number is left.
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
