"""All that is to be measured on a GPU, in order: ``python -m benchmarks gpu``.

Each item is a command in a process of its own: what fails in one doesn't touch the others, and one that runs when the
time is up is stopped and keeps what it keeps after Ctrl-C.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import cast

import torch

from experiments import UNFINISHED
from experiments.annotators import Schedule
from experiments.assembly import read_table
from experiments.simulate import compared_by
from experiments.tables import DEFAULT_METHODS
from lib.core.device.machine import describe_device
from lib.core.errors import InputError
from lib.phantom.specimen import PAPER_SPECIMENS

from . import PROJECT, inference, paper, step, time_to_iou
from .data_sets import CLASSES, REAL_DATA, is_there
from .learners import LEARNERS
from .results import Entry, SpeedEntry, TrainingEntry, read_results, result_key

DEVICE = "cuda"
ENDING = 60.0
"""Seconds that a command which takes ``--minutes`` needs besides them, to start and to write its result."""

STOPPING = 30.0
"""Seconds that a stopped process may take to end."""

LEARNING_MINUTES = 1
"""Training time of each learner."""

RUN_SECONDS = 4 * 60
"""Training time of each run of Table 1, where the paper trained for days."""

SIMULATED = ("phantom", "organoid", "hippocampus")
"""Data sets on whose volumes simulated annotators paint."""

ANNOTATORS = 5
"""Of each strategy."""


class State(IntEnum):
    """How far an item is. What has no result comes first, then what can be continued."""

    MISSING, UNFINISHED, FINISHED = range(3)


@dataclass(frozen=True)
class Item:
    """Something to measure.

    Attributes:
        name: what messages call it.
        command: the words after ``python -m``.
        state: how far it is.
        minutes: the time that it takes, about; it isn't begun with less.
        continues: whether the command takes ``--minutes``, and goes on where it stopped.
    """

    name: str
    command: tuple[str, ...]
    state: State
    minutes: float
    continues: bool = False


def measure_all(results: Path, minutes: float | None) -> int:
    """Measure what is missing, in order, until the time is up; return the exit code.

    Args:
        results: file of the benchmarks' results.
        minutes: time limit; None: no limit.

    Raises:
        InputError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise InputError(
            f"gpu: {describe_device()}; give the same command on a computer with an NVIDIA GPU, for example a rented "
            "one (benchmarks/README.md says how)"
        )
    return go_through(lambda: agenda(results, PROJECT / "experiments" / "results"), minutes)


def agenda(results: Path, experiments: Path) -> list[Item]:
    """List all items in their order, as far as data and packages are there.

    Args:
        results: file of the benchmarks' results.
        experiments: folder of the experiments' results.
    """
    entries = read_results(results)

    def benchmark(keys: Sequence[str], minutes: float, *options: str) -> Item:
        there = all(result_key(key, DEVICE) in entries for key in keys)
        words = ("benchmarks", *keys, "--device", DEVICE, "--results", str(results), *options)
        return Item(" ".join(keys), words, State.FINISHED if there else State.MISSING, minutes)

    return [
        benchmark([step.PAPER], 2),
        replace(benchmark([paper.ITERATIONS], 3), state=_of_training(entries), continues=True),
        *(benchmark([key], 2) for key in inference.KEYS if _can_be_compared(key)),
        *(benchmark(keys, 6, "--minutes", str(LEARNING_MINUTES)) for keys in _times_to_iou()),
        *_table_1(entries, experiments),
        *_simulations(experiments / "simulate.json"),
    ]


def _of_training(entries: Mapping[str, Entry]) -> State:
    entry = entries.get(result_key(paper.ITERATIONS, DEVICE))
    if entry is None:
        return State.MISSING
    training = cast(TrainingEntry, entry)
    return State.FINISHED if training["steps"] == training["all_steps"] else State.UNFINISHED


def _can_be_compared(key: str) -> bool:
    """Whether the software is there that a key of ``inference`` compares with."""
    peers = {"inference.monai_sliding_window": "monai_basicunet", "inference.pytorch3dunet": "pytorch3dunet"}
    return key not in peers or LEARNERS[peers[key]].is_installed


def _times_to_iou() -> Iterator[list[str]]:
    """Yield the keys that are measured together: a tuned peer's on a data set, each time beside ours."""
    for data in filter(is_there, CLASSES):
        for peer, learner in LEARNERS.items():
            if learner.tuned and learner.is_installed:
                yield [f"{time_to_iou.PART}.{data}.{level}.{peer}" for level in time_to_iou.LEVELS]


def _table_1(entries: Mapping[str, Entry], experiments: Path) -> Iterator[Item]:
    """Yield Table 1 with as many steps as fit into the time of a run, once a step's duration is known."""
    entry = entries.get(result_key(step.PAPER, DEVICE))
    if entry is None:
        return
    seconds = cast(SpeedEntry, entry)["facts"]["half"]["step_seconds"]
    steps = max(100, int(RUN_SECONDS / seconds) // 100 * 100)
    path = experiments / f"paper_{steps}_steps" / "table1.json"
    state = State.MISSING
    if path.is_file():
        complete = read_table(path)["average"].keys() >= set(DEFAULT_METHODS["table1"])
        state = State.FINISHED if complete else State.UNFINISHED
    command = ("experiments", "reproduce", "table1", "--size", "paper", "--steps", str(steps))
    yield Item(f"table1 with {steps} steps", command, state, 2, continues=True)


def _simulations(path: Path) -> Iterator[Item]:
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    settings = compared_by(Schedule())
    for data in filter(is_there, SIMULATED):
        folder = REAL_DATA / data
        if data == "phantom":
            names, of_data = [f"kidney_{number}" for number in range(1, 1 + len(PAPER_SPECIMENS))], []
        else:
            names = sorted(image.name.split(".")[0] for image in (folder / "images").iterdir())
            of_data = ["--data", str(folder), "--labels", ",".join(CLASSES[data])]
        for name in names:
            there = results.get(f"{data}, {name}", {}).get("settings") == settings
            words = (*of_data, "--volume", name, "--strategies", "next_slice", "--seeds", str(ANNOTATORS))
            state = State.FINISHED if there else State.MISSING
            yield Item(f"simulate on {name}", ("experiments", "simulate", *words), state, 3)


def go_through(items: Callable[[], Sequence[Item]], minutes: float | None) -> int:
    """Do what is missing, then go on with what is unfinished, each once, until the time is up.

    Args:
        items: returns all items as they are now, in their order.
        minutes: time limit; None: no limit.

    Returns:
        0 if everything is finished, 1 if an item failed, else ``UNFINISHED``.
    """
    until = math.inf if minutes is None else time.monotonic() + 60 * minutes
    begun, failed = set[str](), set[str]()
    while item := _next(items(), begun, (until - time.monotonic()) / 60):
        begun.add(item.name)
        print(f"{item.name}: begun", flush=True)
        code = _run(item, until)
        if code not in (0, UNFINISHED, None):
            print(f"{item.name}: failed with code {code}", flush=True)
            failed.add(item.name)
    left = [item for item in items() if item.state is not State.FINISHED]
    for item in left:
        why = "failed" if item.name in failed else f"{item.state.name.lower()}, needs {item.minutes:g} minutes or more"
        print(f"{item.name}: {why}")
    if left:
        print("The same command goes on with these.")
    return 1 if failed else UNFINISHED if left else 0


def _next(items: Sequence[Item], begun: set[str], minutes: float) -> Item | None:
    """Return what is to be done in the minutes that are left; None if nothing is."""
    possible = [
        item
        for item in items
        if item.state is not State.FINISHED and item.name not in begun and item.minutes <= minutes
    ]
    return min(possible, key=lambda item: item.state, default=None)


def _run(item: Item, until: float) -> int | None:
    """Run an item's command; return its exit code, or None if it was stopped because the time was up."""
    left = until - time.monotonic()
    limit = ["--minutes", f"{(left - ENDING) / 60:.2f}"] if item.continues and left < math.inf else []
    # A group of its own, so that a person's Ctrl-C reaches it once, and nothing that it started outlives it.
    process = subprocess.Popen([sys.executable, "-m", *item.command, *limit], cwd=PROJECT, start_new_session=True)
    try:
        return process.wait(None if left == math.inf else left)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOPPING)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
