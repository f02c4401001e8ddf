"""The paper's whole training on a GPU: its 70 000 iterations, with the IoU at the end.

It is the run of the experiments' Figure 3 at the paper's size, with its checkpoints: after the given minutes it stops,
and the next measurement goes on. Its result says how far it is.
"""

from collections.abc import Iterator, Sequence

from experiments.reproduce import ReproduceOptions, planned, reproduce
from experiments.run import finished, trained
from lib.core.errors import InputError

from . import PROJECT
from .results import Entry, TrainingEntry
from .timing import Announce, BenchmarkOptions, SideError

ITERATIONS = "paper.iterations"
KEYS: tuple[str, ...] = (ITERATIONS,)


def measure(keys: Sequence[str], chosen: BenchmarkOptions, announce: Announce) -> Iterator[tuple[str, Entry]]:
    """Go on with the training; yield how far it is, unless it hasn't made a step.

    Raises:
        SideError: the training failed.
    """
    if not keys:
        return
    if chosen.device != "cuda":
        announce(f"{ITERATIONS}: left out, it needs a GPU\n")
        return
    options = ReproduceOptions(
        tables=("figure3",),
        size="paper",
        folder=None,
        labels="",
        methods=None,
        seeds=1,
        steps=None,
        minutes=chosen.minutes,
        jobs=None,
        dask=None,
        experiments=PROJECT / "experiments",
    )
    entry = go_on(options, chosen.command(ITERATIONS))
    if entry is not None:
        yield ITERATIONS, entry


def go_on(options: ReproduceOptions, command: str) -> TrainingEntry | None:
    """Go on with the training of Figure 3 until it is finished or the time is up; return how far it is.

    Args:
        options: ask for Figure 3.
        command: the command that goes on.

    Returns:
        None if no step has been made.

    Raises:
        SideError: the training failed.
    """
    try:
        reproduce(options)
        (run,), study, context = planned(options)
        record = finished(run, study, context)
    except InputError as error:
        raise SideError(f"{ITERATIONS}: {error}") from error
    steps, seconds = (run.steps, record["seconds"]) if record else trained(run, context)
    if not steps:
        return None
    projected = seconds * run.steps / steps
    note = f"{steps} of {run.steps} iterations of the paper's training in {seconds / 60:.1f} minutes, "
    if record:
        note += f"mean foreground IoU {record['mean_iou'] or 0:.3f} on voxels that aren't annotated"
    else:
        note += f"all of them in about {projected / 60:.0f}"
    return {
        "ratio": None,
        "bar": None,
        "steps": steps,
        "all_steps": run.steps,
        "seconds": seconds,
        "projected_seconds": projected,
        "iou": record["mean_iou"] if record else None,
        "note": f"{note}; starting and loading included",
        "command": command,
    }
