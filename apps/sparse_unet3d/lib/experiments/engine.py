"""Does independent pieces of work beside each other, by joblib or a dask scheduler."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

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
    """
    if jobs == 1 and not dask:
        yield from map(function, items)
        return
    # Imported here: a rented machine may lack it, and does one thing at a time.
    import joblib

    if dask:
        from distributed import Client

        with Client(dask), joblib.parallel_config("dask"):
            yield from joblib.Parallel(return_as="generator_unordered")(joblib.delayed(function)(i) for i in items)
        return
    # One thread each: several small networks at a time are trained faster so than one by several threads.
    with joblib.parallel_config("loky", n_jobs=jobs or joblib.cpu_count(), inner_max_num_threads=1):
        yield from joblib.Parallel(return_as="generator_unordered")(joblib.delayed(function)(i) for i in items)
