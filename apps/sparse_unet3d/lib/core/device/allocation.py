"""How the process gets memory from the operating system."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks for the next allocation instead of returning them; does nothing elsewhere.

    A training step allocates and frees blocks of hundreds of megabytes over and over, and their page faults took a
    third of its time on two cores. Called once, by a process that is there to train.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
