"""Learning from a few annotated slices: task, clock and scores are the same for all learners."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lib.core.labels import UNLABELLED, LabelScheme
from lib.core.metrics import confusion, iou_per_class, mean_iou
from lib.core.training.cases import TrainingCase
from lib.simulation.annotator import paint_slices, truth_as_annotation
from lib.simulation.cases import BACKGROUND, read_cases

from . import PROJECT
from .results import Curve

SLICES_PER_AXIS = 3
FIRST_CHECKPOINT = 10.0
"""Seconds before a learner is scored for the first time."""

RESOLUTION = 0.1
"""Time between two scorings, as a fraction of the time so far; longer if scoring is slow."""

EVALUATION_SHARE = 0.4
"""Scoring takes at most this fraction of the learner's own time."""

Segment = Callable[[TrainingCase], NDArray[np.uint8]]
"""Segments a case's volume with the current model: (X, Y, Z), 0 background, 1 … K foreground."""


@dataclass(frozen=True, eq=False)
class Task:
    """What all learners learn from, and what scores them.

    Attributes:
        scheme: the label scheme.
        cases: the annotated volumes.
        unseen: the truth of each case on the voxels to score, in an annotation's values; elsewhere unlabelled.
    """

    scheme: LabelScheme
    cases: tuple[TrainingCase, ...]
    unseen: tuple[NDArray[np.uint8], ...]

    @property
    def channels(self) -> int:
        """Number of channels of the volumes."""
        return self.cases[0].volume.channels

    @property
    def classes(self) -> int:
        """Number of classes, including the background."""
        return len(self.scheme.classes)


def read_task(
    folder: Path, labels: Sequence[str], seed: int, slices_per_axis: int = SLICES_PER_AXIS, dense: bool = False
) -> Task:
    """Read volumes and annotate some slices of all but the last, as the demo does; the same for all learners.

    Args:
        folder: folder with ``images/`` and dense ``labels/`` under the same names.
        labels: names of the foreground classes.
        seed: draws the slices.
        slices_per_axis: number of annotated slices along each axis.
        dense: annotate everything. The score still counts the voxels that aren't in the slices, so that it can be
            compared with what these slices teach.

    Raises:
        InputError: fewer than two volumes have a truth, or a truth has another grid than its volume.
    """
    scheme = LabelScheme(tuple(labels), BACKGROUND)
    generator = np.random.default_rng(seed)
    cases, unseen = [], []
    for name, case in list(read_cases(folder / "images", folder / "labels").items())[:-1]:
        annotation = paint_slices(case.truth, scheme, slices_per_axis, generator)
        unseen.append(unseen_truth(case.truth, annotation, scheme))
        learnt = truth_as_annotation(case.truth, scheme) if dense else annotation
        cases.append(TrainingCase(name, case.volume, learnt))
    return Task(scheme, tuple(cases), tuple(unseen))


def unseen_truth(
    truth: NDArray[np.integer[Any]], annotation: NDArray[np.uint8], scheme: LabelScheme
) -> NDArray[np.uint8]:
    """Return the truth (X, Y, Z) where nobody painted, in an annotation's values; elsewhere unlabelled."""
    return np.where(annotation == UNLABELLED, truth_as_annotation(truth, scheme), np.uint8(UNLABELLED))


def score(task: Task, segment: Segment) -> dict[str, float | None]:
    """Return the IoU of each foreground class on the unpainted voxels of all annotated volumes together."""
    counts = np.zeros((task.classes, task.classes), dtype=np.int64)
    for case, unseen in zip(task.cases, task.unseen, strict=True):
        counts += confusion(segment(case), unseen, task.scheme)
    return iou_per_class(counts, task.scheme)


def seconds_to_start(code: str) -> float:
    """Return the seconds that a new process takes to run ``code``, which imports a learner's software."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT / "apps" / "sparse_unet3d", check=True)
    return time.monotonic() - start


class Clock:
    """Seconds since the annotation was submitted, without the pauses.

    Args:
        before: seconds that have already passed.
    """

    def __init__(self, before: float = 0.0) -> None:
        self._start = time.monotonic() - before

    @property
    def seconds(self) -> float:
        """The time now; wrong during a pause."""
        return time.monotonic() - self._start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock during the block."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._start += time.monotonic() - began


class Trial:
    """A learner's run against the clock, which starts now.

    Args:
        task: what to learn.
        budget: seconds after which the trial ends.
        before: seconds that the learner took to start.
        progress: called with the part of the time that has passed, 0 … 1.
        device: ``cpu`` or ``cuda``; where the learner computes if it can.

    Attributes:
        curve: the scores so far.
        iou: IoU by class of the last scoring.
        evaluations: duration of each scoring in seconds; it doesn't count as the learner's time.
    """

    def __init__(
        self, task: Task, budget: float, before: float, progress: Callable[[float], None], device: str = "cpu"
    ) -> None:
        self.task, self.budget, self.device = task, budget, device
        self.clock = Clock(before)
        self.curve: Curve = []
        self.iou: dict[str, float | None] = {}
        self.evaluations: list[float] = []
        self._progress = progress
        self._due = FIRST_CHECKPOINT
        self._reported_percent = 0

    @property
    def is_over(self) -> bool:
        """Whether the budget is spent."""
        return self.clock.seconds >= self.budget

    @property
    def is_due(self) -> bool:
        """Whether to score the learner now; also reports the progress in whole percent."""
        seconds = self.clock.seconds
        percent = min(100, int(100 * seconds / self.budget))
        if percent > self._reported_percent:
            self._reported_percent = percent
            self._progress(percent / 100)
        return seconds >= min(self._due, self.budget)

    def score(self, segment: Segment) -> None:
        """Score the learner while the clock stands still."""
        if self.device == "cuda":
            # What the GPU has still to compute is part of the learner's time.
            torch.cuda.synchronize()
        seconds = self.clock.seconds
        with self.clock.paused():
            began = time.monotonic()
            self.iou = score(self.task, segment)
            self.curve.append((seconds, mean_iou(self.iou) or 0.0))
            self.evaluations.append(time.monotonic() - began)
        self._due = seconds + max(RESOLUTION * seconds, self.evaluations[-1] / EVALUATION_SHARE)

    def goes_on(self, segment: Segment) -> bool:
        """Score the learner if it is due or the time is over; return whether there is time left."""
        over = self.is_over
        if self.is_due or over:
            self.score(segment)
        return not over


def time_to_level(curve: Curve, level: float, steps: bool) -> float | None:
    """Return the seconds until a curve first reaches a level; None if it never does.

    Args:
        curve: the curve, ascending in time.
        level: mean foreground IoU.
        steps: whether the learner's result stays the same until the next scoring. Otherwise it changes all the time,
            and the time between two scorings is interpolated.
    """
    before: tuple[float, float] | None = None
    for seconds, iou in curve:
        if iou >= level:
            if before is None or steps:
                return seconds
            return before[0] + (seconds - before[0]) * (level - before[1]) / (iou - before[1])
        before = (seconds, iou)
    return None
