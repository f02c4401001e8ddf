"""The trainer that 3D Slicer's Train button starts."""

import json
import logging
import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import numpy as np
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.train import TrainTask
from torch.utils.tensorboard import SummaryWriter

from ..core.allocation import keep_freed_memory
from ..core.annotations import taught_classes
from ..core.errors import InputError
from ..core.files import write_json
from ..core.labels import LabelScheme
from ..core.model import ModelFolder
from ..core.training import Report, TrainingCase, TrainingOptions, check_painted, train
from ..core.volumes import onto_grid, read_label_map, read_volume
from .conf import Conf
from .datastore import AnnotationStore
from .machine import this_machine
from .versions import FINAL

logger = logging.getLogger(__name__)

NOT_TRAINED = {"epoch": 0, "total_epochs": 1, "total_time": "", "best_metric": 0.0, "message": "not trained yet"}
"""What Slicer is told before the first training; it divides by ``total_epochs``."""


class Trainer(TrainTask):
    """Trains on all annotated images of the datastore, in a process of its own that may be killed at any time.

    MONAI Label's BasicTrainTask isn't used: it replaces the published model whatever the new one scores.
    """

    def __init__(self, conf: Conf) -> None:
        super().__init__("Learns from the annotated slices of all images")
        self.conf = conf
        self.folder = ModelFolder(conf.models)

    def config(self) -> dict[str, Any]:
        """The options that Slicer's table shows. Of a list the first item is the default."""
        defaults = TrainingOptions()
        return {
            "max_epochs": defaults.max_epochs,
            "max_minutes": defaults.max_minutes,
            "start": ["continue", "afresh"],
        }

    def stats(self) -> dict[str, Any]:
        """What Slicer shows of the running training or the last one."""
        try:
            stats = json.loads(self.folder.stats_path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return dict(NOT_TRAINED)
        return {**NOT_TRAINED, **stats}

    def check(self, request: Mapping[str, Any], datastore: Datastore) -> None:
        """Refuse a training that can't start; quick, as it is done before the process is started.

        Raises:
            InputError: an option that isn't possible, nothing annotated or a single class only, an annotated image
                that lacks a channel.
        """
        read_options(request)
        check_painted(classes_taught_by_all(datastore, self.conf), self.conf.scheme)
        if isinstance(datastore, AnnotationStore):
            for image_id in datastore.get_labeled_images():
                datastore.image_files(image_id)

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train; what happens is told through the statistics file, TensorBoard events and the log.

        Raises:
            InputError: nothing can be learnt from the annotations, or an option isn't possible.
        """
        try:
            options = read_options(request)
            cases = read_cases(datastore, self.conf.scheme)
            keep_freed_memory()
            with _Progress(self.folder) as progress:
                machine = this_machine(self.conf.memory)
                latest = train(cases, self.conf.scheme, self.folder, options, self.conf.plan, machine, progress.report)
        except InputError as error:
            write_json(self.folder.stats_path, {**self.stats(), "message": str(error)})
            raise
        logger.info("Training has ended: %s", latest["message"])
        return latest


def classes_taught_by_all(datastore: Datastore, conf: Conf) -> set[str]:
    """Return the names of the classes that the annotations of all images together teach."""
    taught = set[str]()
    for image_id in datastore.get_labeled_images():
        statistics = datastore.get_label_info(image_id, FINAL).get("statistics")
        if statistics:
            taught |= taught_classes(statistics, conf.scheme, conf.plan.unpainted)
    return taught


def read_options(request: Mapping[str, Any]) -> TrainingOptions:
    """Read the training options out of a request; values may be texts, or lists of which the first counts.

    Raises:
        InputError: a value that isn't possible.
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
        raise InputError(f"{key}: {value!r} is no number; give one, e.g. {default:g}")
    return number


def _first(value: Any) -> Any:
    return (value[0] if value else None) if isinstance(value, list) else value


def read_cases(datastore: Datastore, scheme: LabelScheme) -> list[TrainingCase]:
    """Read all annotated images with their annotations.

    Raises:
        InputError: an image or annotation can't be read, or both don't go together; names the file.
    """
    cases = []
    for image_id in datastore.get_labeled_images():
        volume = read_volume(datastore.get_image_uri(image_id))
        label = read_label_map(datastore.get_label_uri(image_id, FINAL))
        if label.array.max() > scheme.background_value:
            raise InputError(
                f"{label.name}: has voxels of value {label.array.max()}, the highest is {scheme.background_value} "
                f"({scheme.describe()}); submit the annotation again"
            )
        cases.append(TrainingCase(image_id, volume, onto_grid(label, volume).astype(np.uint8)))
    return cases


class _Progress:
    """Tells of each epoch in the statistics file, as TensorBoard events and in the log."""

    def __init__(self, folder: ModelFolder) -> None:
        self.folder = folder
        self.events: SummaryWriter | None = None

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.events:
            self.events.close()

    def report(self, report: Report) -> None:
        # JSON has no NaN, and /info would fail with it.
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in report.items()}
        took = timedelta(seconds=round(report["seconds"]))
        # Slicer takes a training that has a total time for finished, and stops moving its progress bar.
        write_json(self.folder.stats_path, {**finite, "total_time": str(took) if report["finished"] else ""})
        if self.events is None:
            # A continued run goes on in its own folder.
            self.events = SummaryWriter(self.folder.events / report["run"].replace(":", ""))
        epoch = report["epoch"]
        self.events.add_scalar("loss", report["loss"], epoch)
        self.events.add_scalar("waited", report["waited"], epoch)
        if report["score"] is not None:
            self.events.add_scalar(report["metric"], report["score"], epoch)
            for name, iou in report["iou"].items():
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
