"""One run: a method learns from some annotated slices and is judged on others. It may be stopped and continued."""

import base64
import functools
import json
import platform
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from lib.core.annotation.slices import AnnotatedSlice
from lib.core.annotation.split import apply_split
from lib.core.device.machine import Machine
from lib.core.device.memory import keep_freed_memory
from lib.core.errors import InputError
from lib.core.files import replacing, write_json
from lib.core.labels import UNLABELLED
from lib.core.metrics import confusion, iou_per_class, mean_iou

from . import PROJECT
from .methods import METHODS, MethodInput, OutOfTimeError, Size, training_precision
from .study import Places, Source, Study, load_study

SETTINGS = "settings.json"
"""File in a run's folder."""

PIECES = "pieces.json"
"""File in a run's folder: ``seconds`` of learning so far, ``commits`` and ``machines`` that had a part in it."""

DENSE = "figure3.npz"
"""File of Figure 3's dense segmentation, beside the runs' folders."""

RECORDS = "runs"
"""Folder of what finished runs are known by, beside the folders of those that aren't."""

TOLD = 10
"""Times that a run tells of its progress."""


class ShownSlice(TypedDict):
    """A segmented slice.

    ``volume``, ``axis`` and ``index``: its place. ``shape``: its size in voxels. ``labels``: its voxels, compressed;
    ``shown_labels`` unpacks them.
    """

    volume: str
    axis: int
    index: int
    shape: list[int]
    labels: str


class RunRecord(TypedDict):
    """The result of a finished run, as its JSON file holds it.

    ``settings``: everything that the result depends on, except the software. ``iou``: by class, None for a class that
    is neither in the truth nor predicted. ``counts``: test voxels by true class (rows) and predicted class (columns), 0
    being background. ``labelled_percent``: share of annotated voxels in the training volumes. ``seconds``: duration of
    the training. ``precision``: floating-point format of the training steps, None for other software. ``machine`` and
    ``commit``: several where a run was continued by others.
    """

    key: str
    table: str
    row: str
    method: str
    seed: int
    mean_iou: float | None
    iou: dict[str, float | None]
    counts: list[list[int]]
    labelled_percent: float
    seconds: float
    precision: str | None
    machine: str
    commit: str
    date: str
    shown: ShownSlice
    settings: dict[str, Any]


class _Pieces(TypedDict):
    """What earlier pieces of a run took and who computed them, see ``PIECES``."""

    seconds: float
    commits: list[str]
    machines: list[str]


@dataclass(frozen=True)
class Run:
    """What is learnt from and judged by.

    Attributes:
        table: that it belongs to.
        row: of the table.
        method: one of ``METHODS``.
        seed: of all randomness.
        steps: of training.
        training: by volume the annotated slices that are learnt from.
        test: by volume the slices that are judged; voxels that a training slice crosses don't count.
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
        """Names the run and its files."""
        return f"{self.table}-{self.row}-{self.method}-{self.seed}"


@dataclass(frozen=True)
class RunContext:
    """What is the same for all runs.

    Attributes:
        source: of the volumes.
        size: of networks and training.
        records: folder for what finished runs are known by.
        work: folder for runs that aren't finished.
        until: time, in seconds since 1970, after which runs stop to be continued later; None: never.
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
        """Where Figure 3's dense segmentation is kept."""
        return self.work / DENSE


def run_settings(run: Run, study: Study, context: RunContext) -> dict[str, Any]:
    """Return all that a run's result depends on but for the software, as JSON values."""
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
    """Return the record of a run if it was finished with the same settings; None if it is to be made."""
    path = context.record_of(run)
    if not path.is_file():
        return None
    record: RunRecord = json.loads(path.read_text(encoding="utf-8"))
    return record if record["settings"] == run_settings(run, study, context) else None


def perform(run: Run, context: RunContext) -> RunRecord:
    """Do a run, or go on with it, and keep its record.

    Raises:
        OutOfTimeError: it isn't finished, and can be continued.
        InputError: it diverged.
    """
    # Asked for before the run, as another commit may be made beside it.
    software = commit()
    study = load_study(context.source)
    cases = [study.subjects[name].annotated(name, places) for name, places in run.training.items()]
    keep_freed_memory()
    work = context.work_of(run)
    work.mkdir(parents=True, exist_ok=True)
    settings = run_settings(run, study, context)
    _discard_stale_work(run, work, settings)
    pieces = _pieces(work)
    # Before it learns: what a process leaves that is killed is gone on with, too.
    _take_note(pieces["commits"], software)
    _take_note(pieces["machines"], machine_name("cpu" if METHODS[run.method].on_cpu else context.size.device))
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
    for name, judged in _judged(run, study).items():
        for place, plane in segment(name, study.subjects[name].volume, run.test[name]).items():
            counts += confusion(plane, np.take(judged, place.index, axis=place.axis), study.scheme)
            planes[name, place] = plane
    if run.table == "figure3":
        _keep_dense(planes, context.dense)
    iou = iou_per_class(counts, study.scheme)
    labelled = sum(np.count_nonzero(case.annotation) for case in cases)
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
    """Keep the dense segmentation (X, Y, Z) that slices across z make up."""
    labels = np.stack([planes[of] for of in sorted(planes)], axis=2)
    with replacing(path) as beside:
        np.savez_compressed(beside, labels=labels)


class _Supervisor:
    """Tells of a run's progress, and stops it when the time is up, unless it has learnt all by then."""

    def __init__(self, run: Run, until: float | None) -> None:
        self.run, self.until = run, until
        self._told: int | None = None

    def __call__(self, part: float, text: str) -> None:
        """Take note of the part of the learning that is done, 0 … 1."""
        if self._told is None or int(part * TOLD) > self._told:
            self._told = int(part * TOLD)
            print(f"    {self.run.key}: {100 * part:.0f} %, {text}", file=sys.stderr, flush=True)
        if part < 1 and self.until is not None and time.time() >= self.until:
            raise OutOfTimeError


def _discard_stale_work(run: Run, work: Path, settings: Mapping[str, Any]) -> None:
    """Start afresh unless what was begun has these settings and can be continued."""
    path = work / SETTINGS
    if METHODS[run.method].in_one_go or not path.is_file() or json.loads(path.read_text(encoding="utf-8")) != settings:
        shutil.rmtree(work)
        write_json(path, settings)


def _pieces(work: Path) -> _Pieces:
    """Return what is known of the earlier pieces of a run, see ``PIECES``."""
    path = work / PIECES
    if not path.is_file():
        return {"seconds": 0.0, "commits": [], "machines": []}
    pieces: _Pieces = json.loads(path.read_text(encoding="utf-8"))
    return pieces


def _take_note(names: list[str], name: str) -> None:
    if name not in names:
        names.append(name)


def _shown(planes: Mapping[tuple[str, AnnotatedSlice], NDArray[np.uint8]], study: Study) -> ShownSlice:
    """Keep the labels of one slice: across z where there is one, that with most foreground."""

    def merit(of: tuple[str, AnnotatedSlice]) -> tuple[int, int]:
        name, place = of
        truth = np.take(study.subjects[name].truth, place.index, axis=place.axis)
        return place.axis, int(np.count_nonzero(truth != study.scheme.background_value))

    name, place = max(planes, key=merit)
    plane = planes[name, place]
    packed = base64.b64encode(zlib.compress(np.ascontiguousarray(plane).tobytes(), 9)).decode()
    return {"volume": name, "axis": place.axis, "index": place.index, "shape": list(plane.shape), "labels": packed}


def shown_labels(record: RunRecord) -> NDArray[np.uint8]:
    """Return the segmented slice that a record keeps, the two other axes of (X, Y, Z)."""
    shown = record["shown"]
    values = np.frombuffer(zlib.decompress(base64.b64decode(shown["labels"])), dtype=np.uint8)
    return values.reshape(shown["shape"])


def machine_name(device: str) -> str:
    """Return what ``cpu`` or ``cuda`` is here, for records."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    instructions = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {instructions}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"


@functools.cache
def commit() -> str:
    """Return the project's commit, with a + where files were changed since; ``unknown`` without git."""
    try:
        changed = _git("status", "--porcelain", "--", "apps", "experiments/*.py")
        return _git("rev-parse", "--short", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=PROJECT, capture_output=True, text=True, check=True).stdout.strip()


def check_runs(runs: Sequence[Run], study: Study) -> None:
    """Refuse runs that would fail after hours.

    Raises:
        InputError: a run would have nothing to learn, or no foreground to be judged by.
    """
    # Methods and seeds make no difference.
    for row, run in {f"{run.table}-{run.row}": run for run in runs}.items():
        cases = [study.subjects[name].annotated(name, places) for name, places in run.training.items()]
        if len({int(value) for case in cases for value in np.unique(case.annotation)} - {UNLABELLED}) < 2:
            raise InputError(
                f"{row}: the slices that would be learnt from show a single class or none; expected foreground "
                "and background on them: give volumes with more foreground, or leave some out"
            )
        if not any(_is_foreground(judged, study) for judged in _judged(run, study).values()):
            raise InputError(
                f"{row}: there is no foreground on the slices that would be judged; give volumes with more of it, "
                "or leave some out"
            )


def _is_foreground(judged: NDArray[np.uint8], study: Study) -> bool:
    return bool(np.any((judged != UNLABELLED) & (judged != study.scheme.background_value)))


def _judged(run: Run, study: Study) -> dict[str, NDArray[np.uint8]]:
    """Return for each volume the truth on its test slices, but for what a training slice crosses."""
    return {
        name: apply_split(study.subjects[name].truth, run.training.get(name, ()), places)[1]
        for name, places in run.test.items()
    }
