"""The trainer behind 3D Slicer's Train button."""

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypedDict

from monailabel.interfaces.tasks.train import TrainTask
from torch.utils.tensorboard import SummaryWriter

from lib.core.annotation.statistics import learnable_classes
from lib.core.data.training_volumes import read_for_training
from lib.core.device.memory import keep_freed_memory
from lib.core.device.this_machine import this_machine
from lib.core.errors import InputError
from lib.core.files import write_json
from lib.core.labels import LabelScheme
from lib.core.model.folder import ModelFolder
from lib.core.model.origin import PaintVersion
from lib.core.training.cases import TrainingCase, check_painted
from lib.core.training.options import TrainingOptions
from lib.core.training.ranks import ALONE, Ranks
from lib.core.training.report import TrainingReport
from lib.core.training.run import train
from lib.server.conf import Conf
from lib.server.records import AnnotationInfo
from lib.server.stopping import raise_if_stopping
from lib.server.store.annotations import AnnotationReader
from lib.server.store.datastore import AnnotationStore
from lib.server.store.studies import MOST_NAMED
from lib.server.store.usable import read_all, unlike_channels

logger = logging.getLogger(__name__)

NOT_TRAINED = {"epoch": 0, "total_epochs": 1, "total_time": "", "best_metric": 0.0, "message": "not trained yet"}
"""The statistics before the first training. Slicer divides by ``total_epochs``, which therefore isn't 0."""


class TrainingCheck(TypedDict):
    """What a client is told when a training starts.

    Attributes:
        left_out: why some images or labels aren't used, and what to do; empty if all are.
    """

    left_out: list[str]


class Trainer(TrainTask):
    """Trains on all annotated images of the datastore, in a process that may be killed at any time.

    It doesn't use MONAI Label's BasicTrainTask, which publishes every new model whatever its score.
    """

    def __init__(
        self, conf: Conf, on_report: Callable[[TrainingReport], None] = lambda _: None, ranks: Ranks = ALONE
    ) -> None:
        """Train by these settings; ``on_report`` is called after each epoch, on rank 0 of the processes that train."""
        super().__init__("Learns from the annotated slices of all images")
        self.conf, self.on_report, self.ranks = conf, on_report, ranks
        self.folder = ModelFolder(conf.models)

    def config(self) -> dict[str, Any]:
        """Return the options in Slicer's table; the first item of a list is the default."""
        defaults = TrainingOptions()
        return {
            "max_epochs": defaults.max_epochs,
            "max_minutes": defaults.max_minutes,
            "start": ["continue", "afresh"],
        }

    def stats(self) -> dict[str, Any]:
        """Return what Slicer shows of the running training, or else of the last one."""
        try:
            stats = json.loads(self.folder.stats_path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return dict(NOT_TRAINED)
        return {**NOT_TRAINED, **stats}

    def check(self, request: Mapping[str, Any], datastore: AnnotationStore) -> TrainingCheck:
        """Refuse a training that can't start, by reading headers only.

        Returns:
            Which images training leaves out by their headers, and which labels in ``labels/final`` aren't used.

        Raises:
            InputError: an option is out of range, or the usable annotations are missing or lack necessary classes.
        """
        read_options(request)
        geometries, left_out = read_all(datastore, datastore.annotated_geometry)
        left_out |= unlike_channels({image_id: geometry.channels for image_id, geometry in geometries.items()})
        notes = [*left_out.values(), *datastore.describe_left_out()]
        try:
            check_painted(learnable_classes_of(datastore, self.conf, set(geometries) - set(left_out)), self.conf.scheme)
        except InputError as error:
            raise InputError(_and_left_out(str(error), notes)) from error
        return {"left_out": notes}

    def __call__(self, request: Mapping[str, Any], datastore: AnnotationStore) -> dict[str, Any]:
        """Train; report through the statistics file, TensorBoard events and the log.

        Raises:
            InputError: nothing can be learnt from the annotations, or an option is out of range.
            Stopped: the process is to end; the checkpoint holds what was learnt.
        """
        options = read_options(request)
        cases, left_out = read_cases(datastore, self.conf.scheme)
        for reason in left_out if self.ranks.is_first else []:
            logger.error("Left out: %s", reason)
        if not cases and left_out:
            raise InputError(_and_left_out("training: none of the annotated images can be used", left_out))
        keep_freed_memory()
        with _Progress(self.folder, left_out, self.on_report) as progress:
            machine = self.ranks.share_of(this_machine(self.conf.memory))
            latest = train(
                cases,
                self.conf.scheme,
                self.folder,
                options,
                self.conf.plan,
                machine,
                progress.report,
                raise_if_stopping,
                self.ranks,
            )
        logger.info("Training has ended: %s", latest["message"])
        return dict(latest)


def learnable_classes_of(datastore: AnnotationStore, conf: Conf, images: Iterable[str]) -> set[str]:
    """Return the names of the classes that can be learnt from the annotations of some images together."""
    learnable = set[str]()
    for image_id in images:
        if statistics := datastore.current(image_id).get("statistics"):
            learnable |= learnable_classes(statistics, conf.scheme, conf.plan.unpainted)
    return learnable


def read_options(request: Mapping[str, Any]) -> TrainingOptions:
    """Read the training options from a request; a value may be a text, or a list whose first item counts.

    Raises:
        InputError: a value is out of range.
    """
    defaults = TrainingOptions()
    return TrainingOptions(
        max_epochs=int(_number(request, "max_epochs", defaults.max_epochs)),
        max_minutes=_number(request, "max_minutes", defaults.max_minutes),
        start=_first(request.get("start")) or defaults.start,
    )


def _number(request: Mapping[str, Any], key: str, default: float) -> float:
    value = _first(request.get(key))
    if value is None or value == "":
        return default
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{key}: {value!r} isn't a number; give one, e.g. {default:g}")
    return number


def _first(value: Any) -> Any:
    return (value[0] if value else None) if isinstance(value, list) else value


def read_cases(datastore: AnnotationReader, scheme: LabelScheme) -> tuple[list[TrainingCase], list[str]]:
    """Read all annotated images with their annotations.

    Returns:
        The cases; and, for each image that can't be used, why and what to do.
    """

    def read(image_id: str) -> TrainingCase:
        datastore.image_files(image_id)
        volume = read_for_training(datastore.get_image_uri(image_id))
        while True:
            info = datastore.current(image_id)
            annotation = datastore.annotation(image_id, volume.geometry, scheme)
            # Somebody may submit a version while the file is read.
            if datastore.current(image_id).get("version") == info.get("version"):
                return TrainingCase(image_id, volume, annotation, _version(image_id, info))

    cases, left_out = read_all(datastore, read)
    left_out |= unlike_channels({image_id: case.volume.channels for image_id, case in cases.items()})
    return [case for image_id, case in cases.items() if image_id not in left_out], list(left_out.values())


def _version(image_id: str, info: AnnotationInfo) -> PaintVersion | None:
    """Return which version of an image's annotation it is; None if it has no number."""
    if "version" not in info:
        return None
    by, time, sha256 = info.get("client_id"), info.get("time"), info.get("sha256")
    return PaintVersion(image_id, info["version"], by or "", time or "", sha256 or "")


def _and_left_out(message: str, left_out: Sequence[str]) -> str:
    """Add to a message what training leaves out."""
    more = [f"and {len(left_out) - MOST_NAMED} more"] if len(left_out) > MOST_NAMED else []
    return f"{message}; left out: {'; '.join([*left_out[:MOST_NAMED], *more])}" if left_out else message


class _Progress:
    """Reports each epoch in the statistics file, as TensorBoard events and in the log."""

    def __init__(
        self, folder: ModelFolder, left_out: Sequence[str], on_report: Callable[[TrainingReport], None]
    ) -> None:
        self.folder, self.left_out, self.on_report = folder, left_out, on_report
        self.events: SummaryWriter | None = None

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.events:
            self.events.close()

    def report(self, report: TrainingReport) -> None:
        # JSON has no NaN, and /info would fail with it.
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in report.items()}
        took = timedelta(seconds=round(report["seconds"]))
        # Once there is a total time, Slicer takes the training for finished and stops its progress bar.
        finite["message"] = _and_left_out(report["message"], self.left_out)
        write_json(self.folder.stats_path, {**finite, "total_time": str(took) if report["finished"] else ""})
        if self.events is None:
            # A continued run adds to its own folder.
            self.events = SummaryWriter(self.folder.events / report["run"].replace(":", ""))
        epoch = report["epoch"]
        self.events.add_scalar("loss", report["loss"], epoch)
        self.events.add_scalar("waited", report["waited"], epoch)
        if report["score"] is not None:
            self.events.add_scalar(report["metric"], report["score"], epoch)
            for name, iou in (report["iou"] or {}).items():
                if iou is not None:
                    self.events.add_scalar(f"{report['metric']}/{name}", iou, epoch)
        self.events.flush()
        score = "" if report["score"] is None else f", {report['metric']} {report['score']:.3f}"
        logger.info(
            "Epoch %d of %d, %s: loss %.4f%s; waited for tiles %.1f %% of the time; %s",
            epoch,
            report["total_epochs"],
            took,
            report["loss"],
            score,
            100 * report["waited"],
            report["message"],
        )
        self.on_report(report)
