"""Kills a process with all that it started, so that none is left over."""

import psutil


def kill_with_children(process: psutil.Process) -> None:
    """Kill a process and all that it started."""
    try:
        every = [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return
    for one in every:
        try:
            one.kill()
        except psutil.Error:
            continue
