"""Work on many items in several processes, where the crash of one process costs one item."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from .errors import InputError
from .orphan import end_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")


class Crashed(Exception):
    """The process that worked on an item has ended without a result. The message says so, for people."""


POLL = 1.0
"""Seconds between two looks at whether the work is to be given up."""


class WorkersLost(InputError):
    """Nobody is left to do the work. The message says what to do."""


class Workers(Protocol):
    """Processes that work on many items, on this computer or on others. One that is lost costs one item at most."""

    @property
    def count(self) -> int:
        """How many there are."""

    @property
    def memory(self) -> int | None:
        """Bytes that each may take; None for what is free."""

    def each(
        self, work: Callable[[Item], Result], items: Sequence[Item]
    ) -> Generator[tuple[Item, Result | Exception], None, None]:
        """Call a function with each item.

        Args:
            work: a function of a module, or a ``partial`` of one, which other processes can import.
            items: what to call it with.

        Yields:
            Each item with what the function returned or raised, in the order in which they are done. ``close`` gives
            up what isn't done.

        Raises:
            WorkersLost: nobody is left to do the work.
        """


@dataclass(frozen=True)
class Processes:
    """Processes of this computer, see ``each_in_processes``.

    Attributes:
        count: how many; with one, this process does the work.
        memory: bytes that each may take; None for what is free.
        raise_if_stopping: called again and again while other processes work; what it raises ends them.
    """

    count: int
    memory: int | None = None
    raise_if_stopping: Callable[[], None] = lambda: None

    def each(
        self, work: Callable[[Item], Result], items: Sequence[Item]
    ) -> Generator[tuple[Item, Result | Exception], None, None]:
        return each_in_processes(work, items, self.count, self.raise_if_stopping)


def each_in_processes(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    raise_if_stopping: Callable[[], None] = lambda: None,
) -> Generator[tuple[Item, Result | Exception], None, None]:
    """Call a function with each item, in processes that share the processor's cores evenly.

    Args:
        work: a function of a module, which other processes can import.
        items: what to call it with.
        workers: how many processes; with one, this process does the work.
        raise_if_stopping: called again and again while other processes work; what it raises ends them.

    Yields:
        Each item with what the function returned or raised, in the order in which they are done; ``Crashed`` if the
        process ended, e.g. because the system had too little memory and killed it.
    """
    if workers <= 1:
        for item in items:
            yield item, outcome_of(lambda item=item: work(item))  # type: ignore[misc]
        return
    waiting, alone = deque(items), deque[Item]()
    while waiting or alone:
        # Nobody knows which of the items broke a pool, so each is tried again with nothing beside it.
        together = bool(waiting)
        part = waiting if together else deque([alone.popleft()])
        with _pool(workers if together else 1) as pool:
            running: dict[Future[Result], Item] = {}
            is_broken = False
            while running or (part and not is_broken):
                # No more than are at work, so that little is tried again.
                while part and not is_broken and len(running) < workers:
                    item = part.popleft()
                    try:
                        running[pool.submit(work, item)] = item
                    except BrokenProcessPool:
                        part.appendleft(item)
                        is_broken = True
                done = set[Future[Result]]()
                while running and not done:
                    raise_if_stopping()
                    done = wait(running, POLL, FIRST_COMPLETED).done
                for future in done:
                    item, outcome = running.pop(future), outcome_of(future.result)
                    if not isinstance(outcome, BrokenProcessPool):
                        yield item, outcome
                        continue
                    is_broken = True
                    if together:
                        alone.append(item)
                    else:
                        yield item, Crashed("the process that worked on it has ended; memory may have been short")


def outcome_of(call: Callable[[], Result]) -> Result | Exception:
    """Return what a function returns or raises."""
    try:
        return call()
    except Exception as error:
        return error


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    threads = max(1, (os.cpu_count() or 1) // workers)
    # A forked process would hang in PyTorch if another thread was computing.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(threads, os.getpid())) as pool:
        try:
            yield pool
        except BaseException:
            # Otherwise an interrupt would wait for the items at work.
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _begin(threads: int, parent: int) -> None:
    """Prepare a process: Ctrl-C in a terminal reaches all processes, and the first one ends the others.

    If that is killed, they end, too. Otherwise they would work on, and then wait for ever.
    """
    end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
