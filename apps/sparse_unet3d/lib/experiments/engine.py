"""Does independent pieces of work beside each other, by joblib or a dask scheduler."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from ..core.errors import InputError

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
        InputError: the scheduler can't be reached, or a worker of it does several things at a time in one process,
            whose randomness would then mix.
    """
    if jobs == 1 and not dask:
        yield from map(function, items)
        return
    # Imported here: a rented machine may lack it, and does one thing at a time.
    import joblib

    if dask:
        from distributed import Client

        try:
            client = Client(dask, timeout=TIMEOUT)
        except OSError as error:
            raise InputError(f"--dask: {dask}: {error}; start `dask scheduler`, and give its address") from error
        with client, joblib.parallel_config("dask"):
            threads = {name: worker["nthreads"] for name, worker in client.scheduler_info(-1)["workers"].items()}
            busy = [name for name, count in threads.items() if count > 1]
            if busy or not threads:
                raise InputError(
                    f"--dask: {dask}: {f'worker {busy[0]} has several threads' if busy else 'no worker is there'}; "
                    "start workers by `dask worker ADDRESS --nthreads 1`"
                )
            yield from joblib.Parallel(return_as="generator_unordered")(joblib.delayed(function)(i) for i in items)
        return
    # One thread each: several small networks at a time are trained faster so than one by several threads.
    with joblib.parallel_config("loky", n_jobs=jobs or joblib.cpu_count(), inner_max_num_threads=1):
        yield from joblib.Parallel(return_as="generator_unordered")(joblib.delayed(function)(i) for i in items)
