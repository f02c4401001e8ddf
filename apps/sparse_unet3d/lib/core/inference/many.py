"""Segmentation of many images by several processes, where one that fails is a line of the report and not the end."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from lib.core.device.machine import default_device
from lib.core.device.memory import free_memory
from lib.core.device.this_machine import this_machine
from lib.core.errors import InputError, Stopped
from lib.core.parallel import Processes, Workers, WorkersLost

MEMORY_OF_WORKER = 4 * 10**9
"""Bytes of free memory for each process that segments, if nobody says how many processes to use."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def choose_processes(
    images: int,
    wanted: int | None = None,
    limit: int | None = None,
    raise_if_stopping: Callable[[], None] = lambda: None,
) -> Processes:
    """Choose how many processes segment images, and share the memory among them.

    Args:
        images: how many images there are.
        wanted: how many processes; None for as many as there are cores, images and memory for, and one on a GPU.
        limit: bytes of memory for all of them; None for what is free.
        raise_if_stopping: see ``Processes``.
    """
    count = wanted
    if count is None:
        free = limit or free_memory()
        most = 1 if default_device() != "cpu" else min(os.cpu_count() or 1, free // MEMORY_OF_WORKER)
        count = max(1, min(most, images))
    return Processes(count, this_machine(limit).memory // count, raise_if_stopping)


def each_or_why(
    work: Callable[[Item], Result], items: Sequence[Item], workers: Workers
) -> Iterator[tuple[Item, Result | str]]:
    """Call a function with each image.

    Args:
        work: a function of a module, which other processes can import.
        items: the images.
        workers: the processes.

    Yields:
        Each image with what the function returned, or why it failed, for people; in the order in which they are done.

    Raises:
        Stopped, WorkersLost: ``work`` has raised it, or nobody is left to do the work.
    """
    for item, outcome in workers.each(work, items):
        if isinstance(outcome, Stopped | WorkersLost):
            raise outcome
        yield item, why(outcome) if isinstance(outcome, Exception) else outcome


def why(error: Exception) -> str:
    """Return why an image failed, for people."""
    return str(error) if isinstance(error, InputError | OSError) else f"{type(error).__name__}: {error}"
