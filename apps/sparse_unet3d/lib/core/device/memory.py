"""The computer's memory: how much is free, and how the process takes it from the operating system."""

import ctypes
import sys
from contextlib import suppress
from pathlib import Path

import psutil

CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
"""Files in which Linux gives a container's limit and usage in bytes (control groups version 2, then version 1)."""

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def free_memory() -> int:
    """Return the free memory in bytes: that of the computer, or of the container around the process if it is less."""
    free = int(psutil.virtual_memory().available)
    for limit, used in CGROUPS:
        try:
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):
            continue
    return max(free, 0)


def total_memory() -> int:
    """Return the memory in bytes that the computer has, or the container around the process if that is less."""
    total = int(psutil.virtual_memory().total)
    for limit, _ in CGROUPS:
        with suppress(OSError, ValueError):
            total = min(total, int(Path(limit).read_text()))
    return total


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks for the next allocation instead of returning them; does nothing elsewhere.

    A training step allocates and frees blocks of hundreds of megabytes over and over; their page faults took a third of
    its time on two cores. Called once, by a process whose purpose is training.
    """
    if library := _glibc():
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Let glibc return freed blocks to the operating system, also those that it keeps; does nothing elsewhere."""
    if library := _glibc():
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
