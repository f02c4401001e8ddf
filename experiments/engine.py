"""Runs independent jobs in parallel, by joblib or a dask scheduler."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from lib.commands.dask_workers import connected

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


def outcomes(
    function: Callable[[Item], Outcome], items: Sequence[Item], jobs: int | None, dask: str | None = None
) -> Iterator[Outcome]:
    """Yield a function's results for all items, in any order.

    Args:
        function: function that another process can import by its name.
        items: its arguments.
        jobs: number of parallel calls; None: one for each processor core.
        dask: address of a dask.distributed scheduler that makes the calls; None: this machine does.

    Raises:
        InputError: the scheduler can't be reached, or has no worker that can be used, see ``DaskWorkers``.
    """
    if jobs == 1 and not dask:
        yield from map(function, items)
        return
    if dask:
        with connected(dask) as workers:
            for _, outcome in workers.each(function, items):
                if isinstance(outcome, Exception):
                    raise outcome
                yield outcome
        return
    # Imported here, because a rented machine may lack it; it does one job at a time.
    import joblib

    # One thread each: several small networks train faster side by side than one after another with several threads.
    with joblib.parallel_config("loky", n_jobs=jobs or joblib.cpu_count(), inner_max_num_threads=1):
        yield from joblib.Parallel(return_as="generator_unordered")(joblib.delayed(function)(i) for i in items)
