"""A real dask scheduler on this computer, with workers in processes of their own."""

import os
from typing import Any

from distributed import LocalCluster

from project import APP, PROJECT

PYTHONPATH = os.pathsep.join(map(str, (PROJECT, APP, PROJECT / "tests")))


def start(workers: int, threads: int = 1, path: str = PYTHONPATH, **options: Any) -> LocalCluster:
    """Start a scheduler and workers, whose networks compute with one thread."""
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=threads,
        host="127.0.0.1",
        dashboard_address=None,
        env={"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        **options,
    )
