"""The processes that work for a folder, and the end of those that lost their server."""

import time
from contextlib import suppress
from pathlib import Path

import psutil

END_WITHIN = 20.0
"""Seconds within which a process that lost its server must have ended."""


def processes_of(temporary: Path) -> list[psutil.Process]:
    """Return all processes whose temporary files go below a folder, in the order in which they started."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("TMPDIR", "").startswith(str(temporary)):
                found.append(process)
    return sorted(found, key=psutil.Process.create_time)


def orphans(temporary: Path) -> list[str]:
    """Wait for the processes of a killed server to end, and kill those that don't; return what they are."""
    end = time.monotonic() + END_WITHIN
    while (left := _running(temporary)) and time.monotonic() < end:
        time.sleep(0.1)
    said = []
    for process in left:
        with suppress(psutil.Error):
            said.append(f"orphan after {END_WITHIN:g} s: {' '.join(process.cmdline())[:200]}")
            process.kill()
    return said


def _running(temporary: Path) -> list[psutil.Process]:
    running = []
    for process in processes_of(temporary):
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE:
                running.append(process)
    return running


def memory_of(process: psutil.Process) -> int:
    """Return the memory of a process in bytes; 0 if it has ended."""
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def descriptors_of(process: psutil.Process) -> int:
    """Return how many files a process has open."""
    try:
        return int(process.num_handles() if psutil.WINDOWS else process.num_fds())
    except psutil.Error:
        return 0
