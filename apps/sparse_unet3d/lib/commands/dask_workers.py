"""The workers of a dask.distributed scheduler, on this computer or on others."""

import queue
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lib.core.device.this_machine import budget
from lib.core.errors import InputError
from lib.core.parallel import Crashed, WorkersLost, outcome_of

TIMEOUT = 10
"""Seconds that a scheduler has to answer."""

PATIENCE = 60
"""Seconds to wait for a new worker when none is left. dask itself starts workers again whose process has ended."""

POLL = 1.0
"""Seconds between two looks at whether the scheduler and a worker are there."""

START = "start workers by `dask worker ADDRESS --nthreads 1`, with apps/sparse_unet3d in PYTHONPATH"

Item = TypeVar("Item")
Result = TypeVar("Result")


class DaskWorkers:
    """The workers of a scheduler; see ``Workers``.

    If one is lost, another one repeats its work. Those that come later work too.

    Attributes:
        count: how many there were at the beginning.
        memory: bytes that each may take, by the limit with which it was started; None if there is no limit.
    """

    def __init__(self, client: Any, address: str) -> None:
        """Find out who is there.

        Raises:
            InputError: nobody, or a worker that has several threads or lacks this software.
        """
        self._client, self._address = client, address
        workers: Mapping[str, Mapping[str, Any]] = client.scheduler_info(n_workers=-1)["workers"]
        if not workers:
            raise InputError(f"--dask: {address}: no worker is connected; {START}")
        for name, worker in workers.items():
            # Threads of one process would mix their random numbers, and share the model's memory.
            if worker["nthreads"] > 1:
                raise InputError(f"--dask: {address}: worker {name} has several threads; {START}")
        self.count = len(workers)
        limits = [worker["memory_limit"] for worker in workers.values() if worker["memory_limit"]]
        self.memory = budget(min(limits)) if limits else None

        # Functions in functions travel with their code. Others are imported, which can fail there.
        def import_software() -> str:
            try:
                import lib.core.errors  # noqa: F401
            except ImportError as error:
                return str(error)
            return ""

        for name, problem in client.run(import_software).items():
            if problem:
                raise InputError(f"--dask: {address}: worker {name} can't import this software ({problem}); {START}")

    def check_they_see(self, paths: Iterable[Path]) -> None:
        """Check that all workers see files and folders.

        Args:
            paths: absolute paths.

        Raises:
            InputError: a worker doesn't; names it and the path.
        """

        def missing(paths: Sequence[str]) -> str | None:
            import os

            return next((path for path in paths if not os.access(path, os.R_OK)), None)

        for name, path in self._client.run(missing, sorted(map(str, paths))).items():
            if path:
                raise InputError(
                    f"{path}: the worker {name} of --dask {self._address} can't read it; all workers must see the same "
                    "files under the same paths as this command, e.g. on a file system that they share"
                )

    def each(
        self, work: Callable[[Item], Result], items: Sequence[Item]
    ) -> Generator[tuple[Item, Result | Exception], None, None]:
        """See ``Workers.each``.

        Raises:
            WorkersLost: the scheduler doesn't answer any more, or had no worker for ``PATIENCE`` seconds.
        """
        # Without "pure", dask gives the result of earlier work with the same arguments.
        futures = self._client.map(partial(_named_call, work), items, pure=False)
        places = {future.key: item for future, item in zip(futures, items, strict=True)}
        ended = queue.SimpleQueue[Any]()
        for future in futures:
            future.add_done_callback(ended.put)
        try:
            while places:
                future = self._next(ended)
                item = places.pop(future.key)
                yield item, self._outcome(future)
                future.release()
        finally:
            # Work that has begun goes on; nobody waits for it.
            with suppress(Exception):
                self._client.cancel(futures)

    def _next(self, ended: "queue.SimpleQueue[Any]") -> Any:
        alone_since = None
        while True:
            try:
                return ended.get(timeout=POLL)
            except queue.Empty:
                if self._client.status != "running":
                    raise self._no_scheduler() from None
                if self._client.scheduler_info(n_workers=-1)["workers"]:
                    alone_since = None
                    continue
                alone_since = alone_since or time.monotonic()
                if time.monotonic() - alone_since >= PATIENCE:
                    raise WorkersLost(
                        f"--dask: {self._address}: no worker is left, and none has come for {PATIENCE:g} seconds; what "
                        f"is done is kept: {START}, and give the same command again"
                    ) from None

    def _outcome(self, future: Any) -> Any:
        from distributed import KilledWorker

        if future.status == "cancelled":
            raise self._no_scheduler()
        outcome = outcome_of(future.result)
        if isinstance(outcome, KilledWorker):
            return Crashed(
                f"{outcome.allowed_failures + 1} workers have ended while they worked on it, the last one at "
                f"{outcome.last_worker.address}; memory may have been short"
            )
        return outcome

    def _no_scheduler(self) -> WorkersLost:
        return WorkersLost(
            f"--dask: {self._address}: the scheduler doesn't answer any more; what is done is kept: start `dask "
            "scheduler` and workers again, and give the same command again"
        )


@contextmanager
def connected(address: str) -> Iterator[DaskWorkers]:
    """Connect with a scheduler.

    Args:
        address: such as ``tcp://10.0.0.1:8786``.

    Raises:
        InputError: dask.distributed isn't installed, nobody answers at the address, or see ``DaskWorkers``.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(
            "--dask: the package distributed is not installed; install it with pip install -r requirements-dask.txt"
        ) from error
    try:
        client = Client(address, timeout=TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(f"--dask: {address}: {error}; start `dask scheduler`, and give its address") from error
    with client:
        yield DaskWorkers(client, address)


def _named_call(work: Callable[[Item], Result], item: Item) -> Result:
    """Call a function on a worker; an error says which worker that was."""
    from distributed import get_worker

    try:
        return work(item)
    except (InputError, OSError) as error:
        raise InputError(f"{error} (on the worker {get_worker().address})") from error
