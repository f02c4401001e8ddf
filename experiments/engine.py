"""Runs independent jobs in parallel, by joblib or a dask scheduler."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from lib.core.errors import InputError

TIMEOUT = 10
"""Seconds that a scheduler has to answer."""

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
        InputError: the scheduler can't be reached, has no worker, or has a worker with several threads, which would
            mix their random numbers.
    """
    if jobs == 1 and not dask:
        yield from map(function, items)
        return
    # Imported here, because a rented machine may lack it; it does one job at a time.
    import joblib

    if dask:
        with _client(dask), joblib.parallel_config("dask"):
            yield from joblib.Parallel(return_as="generator_unordered")(joblib.delayed(function)(i) for i in items)
        return
    # One thread each: several small networks train faster side by side than one after another with several threads.
    with joblib.parallel_config("loky", n_jobs=jobs or joblib.cpu_count(), inner_max_num_threads=1):
        yield from joblib.Parallel(return_as="generator_unordered")(joblib.delayed(function)(i) for i in items)


def _client(address: str) -> Any:
    """Return a client of a scheduler whose workers have one thread each, see ``outcomes``."""
    from distributed import Client

    try:
        client = Client(address, timeout=TIMEOUT)
    except OSError as error:
        raise InputError(f"--dask: {address}: {error}; start `dask scheduler`, and give its address") from error
    workers = client.scheduler_info(-1)["workers"]
    wrong = [f"worker {name} has several threads" for name, worker in workers.items() if worker["nthreads"] > 1]
    if not workers:
        wrong = ["no worker is connected"]
    if wrong:
        client.close()
        raise InputError(f"--dask: {address}: {wrong[0]}; start workers by `dask worker ADDRESS --nthreads 1`")
    return client
