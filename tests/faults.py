"""A process whose disk fails, or that is killed, at the n-th time that it touches a folder."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from stores import in_child

Fault = Literal["once", "from then on", "killed"]

TOUCHES = ("open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.truncate")
"""Audit events of what can fail; writing and syncing have no events."""

KILLED = 9


def with_fault(folder: Path, fault: Fault, at: int, work: Callable[[], str]) -> tuple[str, bool]:
    """Do something in a forked process.

    Args:
        folder: only what touches files below it counts.
        fault: what happens.
        at: the number of the touch at which it happens.
        work: says what came of it.

    Returns:
        What came of it: what ``work`` says, the name of an exception, or "" if it was killed; and whether the fault
        came before the end.
    """
    touched = 0
    into, out_of = os.pipe()

    def touch() -> None:
        nonlocal touched
        touched += 1
        if fault == "killed" and touched == at:
            os._exit(KILLED)
        if touched == at or (touched > at and fault == "from then on"):
            raise OSError(errno.ENOSPC, "the disk is full, says the test")

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in TOUCHES and isinstance(arguments[0], str | Path) and str(arguments[0]).startswith(str(folder)):
            touch()

    def first(call: Callable[..., Any]) -> Callable[..., Any]:
        def touching(handle: int, *arguments: Any) -> Any:
            if os.path.realpath(f"/proc/self/fd/{handle}").startswith(str(folder)):
                touch()
            return call(handle, *arguments)

        return touching

    def failing() -> None:
        os.fsync, os.write = first(os.fsync), first(os.write)
        sys.addaudithook(watch)
        try:
            said = work()
        except Exception as error:
            said = type(error).__name__
        os.write(out_of, f"{said} {touched >= at}".encode())

    code = in_child(failing)
    os.close(out_of)
    with os.fdopen(into) as reply:
        said, _, reached = reply.read().partition(" ")
    assert code in (0, KILLED)
    return said, code == KILLED or reached == "True"
