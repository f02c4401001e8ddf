"""This software, which trains as its server does when a person presses Train."""

import tempfile

import numpy as np
from numpy.typing import NDArray

from benchmarks.learning import Trial
from lib.core.device.machine import Machine
from lib.core.device.memory import free_memory, keep_freed_memory
from lib.core.device.this_machine import SHARE, this_machine
from lib.core.inference.segmenter import Segmenter
from lib.core.model.folder import ModelFolder
from lib.core.plan.options import PlanOptions
from lib.core.training.cases import TrainingCase
from lib.core.training.options import TrainingOptions
from lib.core.training.report import TrainingReport
from lib.core.training.run import train

ENDING = 0.03
"""Part of the time for planning, preparing and saving, which the training's own limit doesn't include."""

MAX_EPOCHS = 1_000_000


def learn(trial: Trial, seed: int) -> None:
    """Train until the time is over; score the published model whenever it has changed."""
    keep_freed_memory()
    machine = this_machine(None) if trial.device == "cuda" else Machine("cpu", int(SHARE * free_memory()))
    with tempfile.TemporaryDirectory() as path:
        folder = ModelFolder(path)
        scored: int | None = None

        def segmenter() -> Segmenter:
            model = folder.load(trial.task.scheme)
            return Segmenter(model.network, model.plan)

        def report(latest: TrainingReport) -> None:
            nonlocal scored
            due = trial.is_due or latest["finished"]
            if not due or not folder.is_published():
                return
            with trial.clock.paused():
                published = folder.published.stat().st_mtime_ns
                new = segmenter() if published != scored else None
            if new is not None:
                trial.score(lambda case: _segment(new, case, machine))
                scored = published

        minutes = ((1 - ENDING) * trial.budget - trial.clock.seconds) / 60
        options = TrainingOptions(max_epochs=MAX_EPOCHS, max_minutes=max(minutes, 0.01), seed=seed)
        train(trial.task.cases, trial.task.scheme, folder, options, PlanOptions(), machine, report)


def _segment(segmenter: Segmenter, case: TrainingCase, machine: Machine) -> NDArray[np.uint8]:
    return segmenter.segment(case.load(), machine)
