"""Sides of comparisons, for the tests of how sides are measured."""

import os
import time
from collections.abc import Callable
from typing import Any


def sleeper(seconds: float, allocate: int, done: float = 1) -> Callable[[Callable[[float], None]], dict[str, Any]]:
    """Prepare a side that takes a given time and memory, and writes to standard output meanwhile."""
    calls = 0

    def run(progress: Callable[[float], None]) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        print("not an answer")
        held = b"\1" * allocate
        progress(0.5)
        time.sleep(seconds)
        return {"calls": calls, "pid": os.getpid(), "done": done, "held": len(held)}

    return run


def broken() -> None:
    """Fail while preparing."""
    raise RuntimeError("no such thing")
