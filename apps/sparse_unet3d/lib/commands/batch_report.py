"""Shows how the segmentation of many volumes goes on, and what became of each."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from lib.core.errors import InputError
from lib.core.files import make_folder
from lib.core.inference.many import choose_processes
from lib.core.parallel import Workers

from .dask_workers import connected
from .progress import bars, show_step
from .segment import Task, plan_tasks, segment_all


def segment_and_report(
    inputs: Sequence[Path], model: Path, out: Path, workers: int | None, dask: str | None, as_json: bool
) -> int:
    """Segment images, and report on the terminal.

    Args:
        inputs: see ``plan_tasks``.
        model: see ``plan_tasks``.
        out: see ``plan_tasks``.
        workers: how many processes of this computer; None for as many as there are cores, images and memory for.
        dask: address of a dask.distributed scheduler whose workers do the work; None: this computer does it.
        as_json: whether to print the results as JSON to the standard output.

    Returns:
        The exit code: 1 if an image has failed.

    Raises:
        InputError: see ``plan_tasks``; both ``workers`` and ``dask`` are given; the scheduler or its workers can't be
            used, or nobody is left to do the work.
    """
    if dask is None:
        tasks = plan_tasks(inputs, model, out)
        return _report(tasks, out, choose_processes(len(tasks), workers), as_json)
    if workers is not None:
        raise InputError(
            f"--workers: {workers}; the workers at --dask decide how many volumes are segmented at a time; leave "
            "--workers out"
        )
    # The workers' working folders are others.
    tasks = plan_tasks([path.absolute() for path in inputs], model.absolute(), out.absolute())
    make_folder(out)
    needed = {out.absolute(), *(task.model for task in tasks), *(file.parent for task in tasks for file in task.files)}
    with connected(dask) as found:
        found.check_they_see(needed)
        return _report(tasks, out, found, as_json)


def _report(tasks: Sequence[Task], out: Path, workers: Workers, as_json: bool) -> int:
    console = Console(file=sys.stderr if as_json else sys.stdout)
    with bars(console) as progress:
        bar = progress.add_task(f"Segmenting, {workers.count} at a time", total=len(tasks))
        of_image = progress.add_task("", visible=False)

        def done(result: dict[str, Any]) -> None:
            progress.advance(bar)
            progress.reset(of_image, description="", visible=False)
            if result["status"] == "failed":
                progress.console.print(f"{result['image']}: failed: {result['message']}", markup=False, soft_wrap=True)

        results = segment_all(tasks, workers, done, partial(show_step, progress, of_image))
    counts = Counter(result["status"] for result in results)
    if as_json:
        print(json.dumps(results, indent=1))
    else:
        print(f"{out}: " + ", ".join(f"{number} {status}" for status, number in sorted(counts.items())))
    return int(counts["failed"] > 0)
