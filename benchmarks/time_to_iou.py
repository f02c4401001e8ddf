"""Time from the submitted annotation to a level of mean foreground IoU on unpainted voxels.

All learners learn from the same slices for the same time, each in its own process. Random forest and interpolations
compute on the processor, even if there is a GPU. A curve starts when the annotation is submitted. Starting the software
and everything else that it does counts; scoring doesn't.
"""

import contextlib
import importlib
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lib.core.errors import InputError

from .data_sets import CLASSES, folder_of
from .learners import LEARNERS
from .learning import SLICES_PER_AXIS, Trial, read_task, seconds_to_start, time_to_level
from .results import Curve, CurveEntry, Entry, SpeedEntry, UnreachedEntry, result_key
from .timing import Announce, BenchmarkOptions, Side, SideError, gigabytes
from .timing import measure as measure_sides

LEVELS = ("0.70", "0.80")
OURS = "ours"
PEERS = tuple(name for name in LEARNERS if name != OURS)
BAR = 3.0
INTERPOLATIONS = ("biomedisa", "interpolation")
"""They don't learn, so comparisons of time with them have no target."""

MINUTES = 8.0
PART = "time_to_iou"
CURVE = "curve"

KEYS = tuple(
    f"{PART}.{data}.{what}"
    for data in CLASSES
    for what in (
        *(f"{CURVE}.{learner}" for learner in LEARNERS),
        *(f"{level}.{peer}" for level in LEVELS for peer in PEERS),
    )
)


def prepare(
    learner: str,
    folder: str,
    labels: Sequence[str],
    seconds: float,
    seed: int,
    device: str = "cpu",
    slices: int | None = SLICES_PER_AXIS,
) -> Callable[[Callable[[float], None]], dict[str, Any]]:
    """Prepare a side for ``benchmarks.side``: a run learns until its time is over.

    Args:
        learner: one of ``LEARNERS``.
        folder: folder of the data set.
        labels: names of the foreground classes.
        seconds: training time, from the submitted annotation.
        seed: draws the slices that are annotated, and the learner's random numbers.
        device: ``cpu`` or ``cuda``.
        slices: annotated slices along each axis; None: dense annotation.
    """
    software = LEARNERS[learner]
    module, function = software.entry.split(":")
    learn = getattr(importlib.import_module(f"benchmarks.learners.{module}"), function)
    task = read_task(Path(folder), labels, seed, slices or SLICES_PER_AXIS, dense=slices is None)
    # The operating system has cached the software's files by now, as on a computer in daily use.
    start = seconds_to_start(software.imports)

    def run(progress: Callable[[float], None]) -> dict[str, Any]:
        trial = Trial(task, seconds, start, progress, device)
        learn(trial, seed)
        curve = [(round(after, 1), round(iou, 4)) for after, iou in trial.curve]
        return {"curve": curve, "iou": trial.iou, "evaluation_seconds": statistics.median(trial.evaluations)}

    return run


def measure(keys: Sequence[str], chosen: BenchmarkOptions, announce: Announce) -> Iterator[tuple[str, Entry]]:
    """Yield key and entry of each curve and of each comparison.

    Raises:
        SideError: a learner failed; raised after the others have been measured.
    """
    failures: list[str] = []
    for data in CLASSES:
        wanted = [key for key in keys if key.startswith(f"{PART}.{data}.")]
        if not wanted:
            continue
        announce(f"{PART}.{data}: preparing the volumes")
        with contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(folder_of(data))
            except InputError as error:
                announce(f"{PART}.{data}: left out, {error}\n")
                continue
            yield from _measure_data(data, folder, wanted, chosen, announce, failures)
    if failures:
        raise SideError("\n".join(failures))


def _measure_data(
    data: str, folder: Path, keys: Sequence[str], chosen: BenchmarkOptions, announce: Announce, failures: list[str]
) -> Iterator[tuple[str, Entry]]:
    """Measure one data set; add errors to ``failures``."""
    named = {key.rsplit(".", 1)[1] for key in keys}
    if not all(f".{CURVE}." in key for key in keys):
        named.add(OURS)
    seconds = 60 * (chosen.minutes or MINUTES)
    slices = None if chosen.dense else chosen.slices or SLICES_PER_AXIS
    curves = _known_curves(data, named, seconds, slices, chosen)
    failed = set[str]()
    for seed in range(chosen.repeats or 1):
        for learner in LEARNERS:
            if learner not in named - failed or (learner in curves and seed < len(curves[learner]["curves"])):
                continue
            options = {"learner": learner, "folder": str(folder), "labels": CLASSES[data], "device": chosen.device}
            side = Side(f"{__name__}:prepare", {**options, "seconds": seconds, "seed": seed, "slices": slices})
            try:
                # One after another, because a process that waits for its turn would hold its memory.
                (runs,) = measure_sides({f"{data}, {learner}": side}, 1, warm_up=False, announce=announce).values()
            except SideError as error:
                failures.append(str(error))
                failed.add(learner)
                continue
            key = f"{PART}.{data}.{CURVE}.{learner}"
            entry = curve_entry(curves.get(learner), runs.facts, seconds, slices, chosen.command(key))
            curves[learner] = {**entry, "peak_gb": gigabytes(runs), "setup": LEARNERS[learner].setup}
            yield key, curves[learner]
    for key in keys:
        what, peer = key.removeprefix(f"{PART}.{data}.").rsplit(".", 1)
        if what != CURVE and {OURS, peer} <= curves.keys() - failed:
            yield key, comparison(curves[OURS], curves[peer], peer, what, chosen.command(key))


def _known_curves(
    data: str, learners: Iterable[str], seconds: float, slices: int | None, chosen: BenchmarkOptions
) -> dict[str, CurveEntry]:
    """Return the entries to go on with.

    Raises:
        InputError: an entry is of another budget or annotation.
    """
    keys = {learner: result_key(f"{PART}.{data}.{CURVE}.{learner}", chosen.device) for learner in learners}
    entries = {learner: cast(CurveEntry, chosen.known[key]) for learner, key in keys.items() if key in chosen.known}
    for learner, entry in entries.items():
        if course_of(entry) != (seconds, slices):
            raise InputError(f"--resume: {keys[learner]} is of other minutes or slices; name another file by --results")
    return entries


def course_of(entry: CurveEntry) -> tuple[float, int | None]:
    """Return how long a learner learnt in seconds, and from how many slices along each axis, None for all."""
    return entry["budget_seconds"], entry["slices"]


def curve_entry(
    earlier: CurveEntry | None, facts: Mapping[str, Any], seconds: float, slices: int | None, command: str
) -> CurveEntry:
    """Add a run to the entry of a learner.

    Args:
        earlier: the entry of the runs before, if there were any.
        facts: facts that the run returned.
        seconds: the budget.
        slices: annotated slices along each axis; None: dense annotation.
        command: the command that repeats the measurement.
    """
    curves: list[Curve] = [*(earlier["curves"] if earlier else ()), facts["curve"]]
    final = [curve[-1][1] for curve in curves]
    classes = ", ".join(f"{name} {value or 0:.3f}" for name, value in facts["iou"].items())
    return {
        "curves": curves,
        "final": final,
        "iou": [*(earlier["iou"] if earlier else ()), facts["iou"]],
        "slices": slices,
        "budget_seconds": seconds,
        "evaluation_seconds": facts["evaluation_seconds"],
        "note": f"mean foreground IoU {statistics.median(final):.3f} after {curves[-1][-1][0]:.0f} s ({classes}), from "
        + ("dense annotation" if slices is None else f"{slices} slices along each axis"),
        "command": command,
    }


def comparison(
    ours: CurveEntry, theirs: CurveEntry, peer: str, level: str, command: str
) -> SpeedEntry | UnreachedEntry:
    """Make the entry of a comparison at one level.

    Args:
        ours: entry of our curves.
        theirs: entry of the peer's curves. Runs that only one of both has are left out.
        peer: name of the peer.
        level: mean foreground IoU, as in the key.
        command: the command that repeats the measurement.

    Returns:
        With a ratio if all runs reach the level; with ``final``, the IoU of both at the end.
    """
    sides = {OURS: ours, peer: theirs}
    shared = min(len(side["curves"]) for side in sides.values())
    runs = {
        name: [time_to_level(curve, float(level), LEARNERS[name].published) for curve in side["curves"][:shared]]
        for name, side in sides.items()
    }
    # Only sides whose runs all reach the level have a median.
    reached = {name: times for name, seconds in runs.items() if (times := _all_reached(seconds)) is not None}
    medians = {name: statistics.median(times) for name, times in reached.items()}
    final = {name: statistics.median(side["final"][:shared]) for name, side in sides.items()}
    note = f"seconds to mean foreground IoU {level}, {ours['budget_seconds']:g} s for each"
    note += "".join(
        f"; {name} {'reaches' if name in medians else 'does not reach'} it, {final[name]:.3f} at the end"
        for name in sides
    )
    bar = None if peer in INTERPOLATIONS else BAR
    if reached.keys() != sides.keys():
        return {
            "ours": medians.get(OURS),
            "theirs": medians.get(peer),
            "theirs_is": peer,
            "ratio": None,
            "spread": None,
            "bar": bar,
            "runs": runs,
            "final": final,
            "note": note,
            "command": command,
        }
    pairs = [other / own for own, other in zip(reached[OURS], reached[peer], strict=True)]
    return {
        "ours": medians[OURS],
        "theirs": medians[peer],
        "theirs_is": peer,
        "ratio": medians[peer] / medians[OURS],
        "spread": [min(pairs), max(pairs)],
        "bar": bar,
        "runs": runs,
        "final": final,
        "note": note,
        "command": command,
    }


def _all_reached(seconds: Sequence[float | None]) -> list[float] | None:
    """Return the times if all runs reached the level, None otherwise."""
    times = [time for time in seconds if time is not None]
    return times if len(times) == len(seconds) else None
