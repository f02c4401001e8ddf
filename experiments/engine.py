"""Does independent pieces of work beside each other, by joblib or a dask scheduler."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from lib.core.errors import InputError

TIMEOUT = 10
"""Seconds in which a scheduler must answer."""

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


def outcomes(
    function: Callable[[Item], Outcome], items: Sequence[Item], jobs: int | None, dask: str | None = None
) -> Iterator[Outcome]:
    """Yield what a function returns for each item, in any order.

    Args:
        function: to be found by its name in another process.
        items: its arguments.
        jobs: how many at a time; None: one for each processor core.
        dask: address of a scheduler of dask.distributed that does them; None: this machine does.

    Raises:
        InputError: the scheduler can't be reached or has no worker, or one that does several things at a time in one
            process, whose randomness would then mix.
    """
    if jobs == 1 and not dask:
        yield from map(function, items)
        return
    # Imported here: a rented machine may lack it, and does one thing at a time.
    import joblib

    if dask:
        with _client(dask), joblib.parallel_config("dask"):
            yield from joblib.Parallel(return_as="generator_unordered")(joblib.delayed(function)(i) for i in items)
        return
    # One thread each: several small networks at a time are trained faster so than one by several threads.
    with joblib.parallel_config("loky", n_jobs=jobs or joblib.cpu_count(), inner_max_num_threads=1):
        yield from joblib.Parallel(return_as="generator_unordered")(joblib.delayed(function)(i) for i in items)


def _client(address: str) -> Any:
    """Return a client of a scheduler whose workers do one thing at a time, see ``outcomes``."""
    from distributed import Client

    try:
        client = Client(address, timeout=TIMEOUT)
    except OSError as error:
        raise InputError(f"--dask: {address}: {error}; start `dask scheduler`, and give its address") from error
    workers = client.scheduler_info(-1)["workers"]
    wrong = [f"worker {name} has several threads" for name, worker in workers.items() if worker["nthreads"] > 1]
    if not workers:
        wrong = ["no worker is there"]
    if wrong:
        client.close()
        raise InputError(f"--dask: {address}: {wrong[0]}; start workers by `dask worker ADDRESS --nthreads 1`")
    return client
