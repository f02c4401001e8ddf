"""Ends a process at once when the process that started it has ended, for as long as it has nothing to save."""

import os
import threading

import psutil

_outlives = threading.Event()


def is_orphan(parent: int) -> bool:
    """Tell whether the process of this number, which started this one, has ended."""
    # Else a killed parent that nobody has buried would count as running. On Windows the number stays as it was.
    return os.getppid() != parent if os.name == "posix" else not psutil.pid_exists(parent)


def end_with_parent(parent: int) -> None:
    """From now on, end this process when the one that started it has ended, also while this one imports libraries.

    That takes seconds, and on a busy computer minutes.

    Args:
        parent: its number.
    """

    def watch() -> None:
        while not _outlives.wait(0.2):
            if is_orphan(parent):
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def outlive_parent() -> None:
    """Stop watching: this process notices the end of its parent by itself from now on."""
    _outlives.set()
