"""Trains on a project's annotations, as Slicer's Train button does, without a server.

torchrun may have started several processes, which then train together.
"""

import json
import os
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lib.core.errors import InputError, Stopped
from lib.core.owner import Owner
from lib.core.training.ranks import Ranks, joined
from lib.core.training.report import TrainingReport
from lib.server.jobs.latest_training import LatestTraining, Training
from lib.server.jobs.watch import Watch
from lib.server.store.datastore import AnnotationStore
from lib.server.tasks.datastore import open_datastore
from lib.server.tasks.trainer import Trainer, read_options

from .command_line import INTERRUPTED
from .progress import bars
from .settings import project_settings


def train_and_report(studies: Path, conf: Sequence[str], request: Mapping[str, Any], as_json: bool) -> int:
    """Train, and report on the terminal. Servers of the same folder see the training, and can stop it.

    Of several processes that train together, the first one reports.

    Args:
        studies: the project's folder.
        conf: the server's ``--conf`` options as ``KEY=VALUE``. Without the classes, those of the published model or of
            the newest annotations are used.
        request: ``max_epochs``, ``max_minutes`` and ``start``, see ``TrainingOptions``.
        as_json: whether to print the last report as JSON to the standard output.

    Returns:
        The exit code: 130 if it was interrupted; what was learnt is saved.

    Raises:
        InputError: an option isn't possible, nothing can be learnt, or a training of this folder runs already.
    """
    with joined() as ranks:
        return _train_and_report(studies, conf, request, as_json, ranks)


def _train_and_report(
    studies: Path, conf: Sequence[str], request: Mapping[str, Any], as_json: bool, ranks: Ranks
) -> int:
    settings = project_settings(studies, conf)
    limits = read_options(request)
    settings.use_voxel_sizes()
    store = open_datastore(settings)
    console = Console(file=sys.stderr if as_json else sys.stdout)
    reports = list[TrainingReport]()
    with bars(console, shown=ranks.is_first) as progress:
        bar = progress.add_task("Reading the volumes", total=1.0)

        def show(report: TrainingReport) -> None:
            reports.append(report)
            done = report["epoch"] / report["total_epochs"]
            if limits.max_minutes:
                done = max(done, report["seconds"] / (60 * limits.max_minutes))
            score = "" if report["score"] is None else f", {report['metric']} {report['score']:.3f}"
            progress.update(
                bar, completed=done, description=f"Epoch {report['epoch']}: loss {report['loss']:.3f}{score}"
            )

        trainer = Trainer(settings, show, ranks)
        check = ranks.by_first(lambda: trainer.check(request, store))
        for note in check["left_out"] if ranks.is_first else []:
            progress.console.print(f"Left out: {note}", markup=False, soft_wrap=True)
        is_interrupted = _train(trainer, request, store)
    if as_json and ranks.is_first:
        print(json.dumps(reports[-1] if reports else None))
    elif reports:
        print(f"{settings.models}: {reports[-1]['message']}")
    if is_interrupted and ranks.is_first:
        print("Interrupted. What was learnt is saved: the same command goes on from there.", file=sys.stderr)
    return INTERRUPTED if is_interrupted else 0


def _train(trainer: Trainer, request: Mapping[str, Any], store: AnnotationStore) -> bool:
    """Train as the only one in the folder; tell whether that was interrupted."""
    latest, is_first = LatestTraining(trainer.folder), trainer.ranks.is_first
    training = trainer.ranks.by_first(lambda: _begin(latest, request))
    Watch(None, (latest, training.id) if is_first else None)
    status, message = "ERROR", "the training has failed; the terminal says why"
    try:
        trainer(request, store)
        status, message = "DONE", ""
    except Stopped:
        status, message = "STOPPED", ""
    except InputError as error:
        message = str(error)
        raise
    finally:
        if is_first:
            latest.end(training.id, status, message)
    return status == "STOPPED"


def _begin(latest: LatestTraining, request: Mapping[str, Any]) -> Training:
    """Record a training by this process, unless one runs already."""
    training = Training(str(uuid.uuid4()), dict(request), Owner.of(os.getpid()))
    with latest.folder.locked():
        if running := latest.running():
            raise InputError(latest.describe(running))
        latest.begin(training)
    return training
