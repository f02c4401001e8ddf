"""A run: a method learns from some annotated slices and is tested on others. It can be stopped and continued."""

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from lib.core.annotation.paint import Paint
from lib.core.annotation.slices import AnnotatedSlice
from lib.core.annotation.split import apply_split
from lib.core.device.machine import Machine
from lib.core.device.memory import keep_freed_memory
from lib.core.errors import InputError
from lib.core.files import replacing, write_json
from lib.core.labels import UNLABELLED
from lib.core.metrics import confusion, iou_per_class, mean_iou
from lib.core.model.folder import ModelFolder
from lib.core.model.model import load_content

from .methods import METHODS, MethodInput, OutOfTimeError, Size, training_precision
from .provenance import commit, machine_name
from .records import RunRecord, ShownSlice, pack_slice
from .study import Places, Source, Study, load_study

SETTINGS = "settings.json"
"""File in a run's work folder: the settings that its checkpoint belongs to."""

PIECES = "pieces.json"
"""File in a run's work folder: duration of the training so far, and the commits and machines that took part."""

DENSE = "figure3.npz"
"""File of Figure 3's dense segmentation, beside the runs' work folders."""

RECORDS = "runs"
"""Folder of the finished runs' records, beside the runs' work folders."""

PROGRESS_LINES = 10
"""Number of times that a run prints its progress."""


class _Pieces(TypedDict):
    """The content of ``PIECES``; ``seconds``: duration of the training so far."""

    seconds: float
    commits: list[str]
    machines: list[str]


@dataclass(frozen=True)
class Run:
    """What a method learns from, and what it is tested on.

    Attributes:
        table: the table that the run belongs to.
        row: its row of the table.
        method: one of ``METHODS``.
        seed: seed of all randomness.
        steps: number of training steps.
        training: the annotated slices of each training volume.
        test: the test slices of each test volume; voxels where a training slice crosses them don't count.
    """

    table: str
    row: str
    method: str
    seed: int
    steps: int
    training: Mapping[str, Places]
    test: Mapping[str, Places]

    @property
    def key(self) -> str:
        """Name of the run and of its files."""
        return f"{self.table}-{self.row}-{self.method}-{self.seed}"


@dataclass(frozen=True)
class RunContext:
    """What all runs share.

    Attributes:
        source: where the volumes come from.
        size: size of networks and training.
        records: folder for the records of finished runs.
        work: folder for unfinished runs.
        until: time, in seconds since 1970, at which runs stop, to be continued later; None: never.
    """

    source: Source
    size: Size
    records: Path
    work: Path
    until: float | None = None

    def record_of(self, run: Run) -> Path:
        return self.records / f"{run.key}.json"

    def work_of(self, run: Run) -> Path:
        return self.work / run.key

    @property
    def dense(self) -> Path:
        """File of Figure 3's dense segmentation."""
        return self.work / DENSE


def run_settings(run: Run, study: Study, context: RunContext) -> dict[str, Any]:
    """Return everything that a run's result depends on, except the software, as JSON values."""
    cases = [study.subjects[name].volume for name in run.training]
    plan = METHODS[run.method].plan(cases, study.scheme, context.size)
    settings: dict[str, Any] = {
        "volumes": {name: study.subjects[name].checksum for name in {**run.training, **run.test}},
        "training": run.training,
        "test": run.test,
        "classes": study.scheme.classes,
        "seed": run.seed,
    }
    if plan:
        settings |= {"plan": plan.to_json(), "steps": run.steps, "memory": context.size.memory}
        if plan.dims == 2:
            settings["slice_steps"] = context.size.slice_steps
    else:
        settings["peer_seconds"] = context.size.peer_seconds
    values: dict[str, Any] = json.loads(json.dumps(settings))
    return values


def finished(run: Run, study: Study, context: RunContext) -> RunRecord | None:
    """Return the record of a run if it was finished with the same settings, None otherwise."""
    path = context.record_of(run)
    if not path.is_file():
        return None
    record: RunRecord = json.loads(path.read_text(encoding="utf-8"))
    return record if record["settings"] == run_settings(run, study, context) else None


def trained(run: Run, context: RunContext) -> tuple[int, float]:
    """Return the steps and the seconds of an unfinished training of the paper's network, as its checkpoint has them."""
    work = context.work_of(run)
    checkpoint = ModelFolder(work).checkpoint
    steps: int = load_content(checkpoint)["steps"] if checkpoint.is_file() else 0
    return steps, _pieces(work)["seconds"]


def perform(run: Run, context: RunContext) -> RunRecord:
    """Start or continue a run, and write its record when it is finished.

    Raises:
        OutOfTimeError: the time is up; the run can be continued.
        InputError: the training diverged.
    """
    # Asked for before the run, because somebody may commit during it.
    software = commit()
    study = load_study(context.source)
    cases = [study.subjects[name].annotated(name, places) for name, places in run.training.items()]
    keep_freed_memory()
    work = context.work_of(run)
    work.mkdir(parents=True, exist_ok=True)
    settings = run_settings(run, study, context)
    _discard_stale_work(run, work, settings)
    pieces = _pieces(work)
    # Written before the training, because a run also continues from the checkpoint of a killed process.
    _add_once(pieces["commits"], software)
    _add_once(pieces["machines"], machine_name("cpu" if METHODS[run.method].on_cpu else context.size.device))
    write_json(work / PIECES, pieces)
    given = MethodInput(
        scheme=study.scheme,
        cases=cases,
        slices=run.training,
        steps=run.steps,
        seed=run.seed,
        size=context.size,
        machine=Machine(context.size.device, context.size.memory),
        folder=work,
        progress=_Supervisor(run, context.until),
    )
    began = time.monotonic()
    try:
        segment = METHODS[run.method].learn(given)
    finally:
        pieces["seconds"] += time.monotonic() - began
        write_json(work / PIECES, pieces)
    counts = np.zeros((len(study.scheme.classes),) * 2, dtype=np.int64)
    planes: dict[tuple[str, AnnotatedSlice], NDArray[np.uint8]] = {}
    for name, truth in _scored_truth(run, study).items():
        for place, plane in segment(name, study.subjects[name].volume, run.test[name]).items():
            counts += confusion(plane, np.take(truth, place.index, axis=place.axis), study.scheme)
            planes[name, place] = plane
    if run.table == "figure3":
        _keep_dense(planes, context.dense)
    iou = iou_per_class(counts, study.scheme)
    labelled = sum(case.paint.labelled for case in cases)
    record: RunRecord = {
        "key": run.key,
        "table": run.table,
        "row": run.row,
        "method": run.method,
        "seed": run.seed,
        "mean_iou": mean_iou(iou),
        "iou": iou,
        "counts": counts.tolist(),
        "labelled_percent": 100 * labelled / sum(case.annotation.size for case in cases),
        "seconds": round(pieces["seconds"], 1),
        "precision": training_precision(work),
        "machine": "; ".join(pieces["machines"]),
        "commit": ", ".join(pieces["commits"]),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "shown": _shown(planes, study),
        "settings": settings,
    }
    write_json(context.record_of(run), record)
    shutil.rmtree(work)
    return record


def _keep_dense(planes: Mapping[tuple[str, AnnotatedSlice], NDArray[np.uint8]], path: Path) -> None:
    """Stack slices across z into the dense segmentation (X, Y, Z), and write it."""
    labels = np.stack([planes[place] for place in sorted(planes)], axis=2)
    with replacing(path) as beside:
        np.savez_compressed(beside, labels=labels)


class _Supervisor:
    """Prints a run's progress, and stops it when the time is up, unless its training is finished."""

    def __init__(self, run: Run, until: float | None) -> None:
        self.run, self.until = run, until
        self._printed: int | None = None

    def __call__(self, part: float, text: str) -> None:
        """Report the finished part of the training, 0 … 1."""
        if self._printed is None or int(part * PROGRESS_LINES) > self._printed:
            self._printed = int(part * PROGRESS_LINES)
            print(f"    {self.run.key}: {100 * part:.0f} %, {text}", file=sys.stderr, flush=True)
        if part < 1 and self.until is not None and time.time() >= self.until:
            raise OutOfTimeError


def _discard_stale_work(run: Run, work: Path, settings: Mapping[str, Any]) -> None:
    """Empty the work folder unless it has these settings and the method can continue."""
    path = work / SETTINGS
    if METHODS[run.method].in_one_go or not path.is_file() or json.loads(path.read_text(encoding="utf-8")) != settings:
        shutil.rmtree(work)
        write_json(path, settings)


def _pieces(work: Path) -> _Pieces:
    path = work / PIECES
    if not path.is_file():
        return {"seconds": 0.0, "commits": [], "machines": []}
    pieces: _Pieces = json.loads(path.read_text(encoding="utf-8"))
    return pieces


def _add_once(names: list[str], name: str) -> None:
    if name not in names:
        names.append(name)


def _shown(planes: Mapping[tuple[str, AnnotatedSlice], NDArray[np.uint8]], study: Study) -> ShownSlice:
    """Keep one slice for the report: across z if possible, and with most foreground."""

    def merit(of: tuple[str, AnnotatedSlice]) -> tuple[int, int]:
        name, place = of
        truth = np.take(study.subjects[name].truth, place.index, axis=place.axis)
        return place.axis, int(np.count_nonzero(truth != study.scheme.background_value))

    name, place = max(planes, key=merit)
    return pack_slice(name, place, planes[name, place])


def check_runs(runs: Sequence[Run], study: Study) -> None:
    """Refuse runs that would otherwise fail after hours.

    Raises:
        InputError: a run has nothing to learn, or no foreground to be tested on.
    """
    # Runs that differ only in method or seed share their slices.
    for row, run in {f"{run.table}-{run.row}": run for run in runs}.items():
        cases = [study.subjects[name].annotated(name, places) for name, places in run.training.items()]
        if len({int(value) for case in cases for value in np.unique(case.annotation)} - {UNLABELLED}) < 2:
            raise InputError(
                f"{row}: the training slices show a single class or none; expected foreground and background: give "
                "volumes with more foreground, or leave some out"
            )
        if not any(_has_foreground(truth, study) for truth in _scored_truth(run, study).values()):
            raise InputError(
                f"{row}: there is no foreground on the test slices; give volumes with more foreground, or leave some "
                "out"
            )


def _has_foreground(truth: NDArray[np.uint8], study: Study) -> bool:
    return bool(np.any((truth != UNLABELLED) & (truth != study.scheme.background_value)))


def _scored_truth(run: Run, study: Study) -> dict[str, NDArray[np.uint8]]:
    """Return each volume's truth on its test slices, (X, Y, Z), without the voxels where a training slice crosses."""
    return {
        name: apply_split(Paint(study.subjects[name].truth), run.training.get(name, ()), places)[1].array()
        for name, places in run.test.items()
    }
