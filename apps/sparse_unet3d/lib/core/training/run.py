"""Training from sparse annotation: epochs, scores on held-out slices, publishing, checkpoints."""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lib.core.annotation.holding_out import Painted, hold_out
from lib.core.annotation.slices import Detected, detect, fill_unpainted
from lib.core.annotation.split import SliceSplit
from lib.core.data.preparation import PreparedImage, prepare_training
from lib.core.data.sampling import TrainingVolume
from lib.core.device.machine import Machine
from lib.core.errors import InputError
from lib.core.files import replacing
from lib.core.labels import LabelScheme
from lib.core.model.folder import ModelFolder
from lib.core.model.model import FORMAT, Model, check_fit, load_content
from lib.core.plan.options import PlanOptions
from lib.core.plan.plan import Plan
from lib.core.plan.planning import make_plan
from lib.core.volumes.volume import Volume
from lib.core.volumes.working_grid import WorkingGrid

from .evaluation import Judged, judge
from .learner import Course, Learner

Start = Literal["continue", "afresh"]

VALIDATION_SHARE = 0.1
"""About the share of the training time that validation takes, but for the first epochs."""


SAVING_SHARE = 0.05
"""Share of the time that checkpoints may take: those of wide networks take longer than an epoch on a GPU."""


@dataclass(frozen=True, eq=False)
class TrainingCase:
    """A volume with its annotation.

    Attributes:
        id: of the image.
        volume: the image.
        annotation: (X, Y, Z) uint8 on the volume's grid, 0 unlabelled, 1 … K foreground, K+1 background.
    """

    id: str
    volume: Volume
    annotation: NDArray[np.uint8]


@dataclass(frozen=True)
class TrainingOptions:
    """What a person sets for one training.

    Attributes:
        max_epochs: epochs after which it ends.
        max_minutes: minutes after which it ends, whichever comes first; 0 for no limit.
        start: ``continue`` where the last training stood, or ``afresh`` with an untrained network.
        seed: of all randomness.

    Raises:
        InputError: a value outside what is possible.
    """

    max_epochs: int = 100
    max_minutes: float = 0.0
    start: Start = "continue"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_epochs < 1:
            raise InputError(f"max_epochs: {self.max_epochs}; give a whole number of at least 1")
        if self.max_minutes < 0:
            raise InputError(f"max_minutes: {self.max_minutes}; give 0 (no limit) or more")
        if self.start not in get_args(Start):
            raise InputError(f"start: {self.start!r}; give one of {', '.join(get_args(Start))}")


Report = dict[str, Any]
"""What is told after each epoch, JSON values:

``run`` when the training started (ISO time), ``epoch``, ``total_epochs``, ``seconds`` of training so far, ``loss`` of
the epoch, ``waited`` the part of its time, 0 … 1, in which it waited for training tiles, ``metric`` (``validation IoU``
or ``training IoU``), ``score`` and ``iou`` by class of the last evaluation (None before the first), ``best_metric`` of
the published model or 0, ``published`` whether this run has published a model, ``finished``, ``message`` for people.
"""


def is_evaluated(epoch: int, interval: int) -> bool:
    """Tell whether a run is scored after this epoch, counted from 1.

    That is after epochs 3, 6, 9, 13, 19, 28, …, since it learns fastest at the beginning, as long as these are no
    farther apart than the interval; then at that interval.
    """
    evaluated = min(3, interval)
    while evaluated < epoch:
        evaluated += min(interval, max(3, evaluated // 2))
    return evaluated == epoch


def check_painted(painted: Collection[str], scheme: LabelScheme) -> None:
    """Refuse annotations that nothing can be learnt from.

    Args:
        painted: names of the classes that have voxels in any annotation.
        scheme: the label scheme.

    Raises:
        InputError: nothing annotated, a single class, or no background.
    """
    if not painted:
        raise InputError("training: nothing is annotated yet; paint some slices, submit them and train again")
    if len(painted) == 1:
        (only,) = painted
        others = ", ".join(name for name in scheme.classes if name != only)
        raise InputError(
            f"training: only the class {only!r} is annotated, which leaves nothing to tell it from; "
            f"paint some of {others} as well, submit and train again"
        )
    if scheme.background not in painted:
        raise InputError(
            f"training: no voxel of {scheme.background} is annotated in any image, and a model that sees none takes "
            f"everything for {' or '.join(scheme.foreground)}; paint {scheme.background} in some slices too, submit "
            "and train again. If all that is unpainted in annotated slices is "
            f"{scheme.background}, start the server with --conf unpainted background"
        )


def check_cases(cases: Sequence[TrainingCase], scheme: LabelScheme) -> None:
    """Refuse cases that can't be trained on together.

    Raises:
        InputError: as ``check_painted``, or unlike numbers of channels.
    """
    found = {value for case in cases for value in np.unique(case.annotation).tolist()}
    check_painted([name for value, name in enumerate(scheme.classes, start=1) if value in found], scheme)
    first = cases[0]
    for case in cases[1:]:
        if case.volume.channels != first.volume.channels:
            raise InputError(
                f"training: image {case.id!r} has {case.volume.channels} channel(s), {first.id!r} has "
                f"{first.volume.channels}; put images recorded in different ways into different folders"
            )


def train(
    cases: Sequence[TrainingCase],
    scheme: LabelScheme,
    folder: ModelFolder,
    options: TrainingOptions,
    plan_options: PlanOptions,
    machine: Machine,
    report: Callable[[Report], None],
) -> Report:
    """Train a network, publishing it whenever it gets better on the held-out slices.

    A process that runs this may be killed at any time: after the first epoch, and again every some epochs, the folder's
    checkpoint holds all that is needed to continue.

    Args:
        cases: annotated volumes, as painted; those without any paint are left out.
        scheme: the label scheme.
        folder: where models are kept.
        options: what a person set.
        plan_options: what a person decided about the plan.
        machine: what to compute on.
        report: called after each epoch.

    Returns:
        The last report.

    Raises:
        InputError: nothing can be learnt from the cases.
    """
    cases = [case for case in cases if np.any(case.annotation)]
    detected = {case.id: detect(case.annotation) for case in cases}
    if plan_options.unpainted == "background":
        cases = [
            replace(case, annotation=fill_unpainted(case.annotation, detected[case.id].slices, scheme))
            for case in cases
        ]
    check_cases(cases, scheme)
    run = _start_run(cases, detected, scheme, folder, options, plan_options, machine)
    return run.go(report)


def _start_run(
    cases: Sequence[TrainingCase],
    detected: Mapping[str, Detected],
    scheme: LabelScheme,
    folder: ModelFolder,
    options: TrainingOptions,
    plan_options: PlanOptions,
    machine: Machine,
) -> "_Run":
    """Set up a run: continued where the checkpoint allows it, else new."""
    channels = cases[0].volume.channels
    checkpoint, note = None, ""
    if options.start == "continue" and folder.checkpoint.is_file():
        checkpoint, note = _fitting_checkpoint(folder, scheme, channels, plan_options)
    rival = _fitting_published(folder, scheme, channels, plan_options)
    earlier = SliceSplit.from_json(checkpoint["split"]) if checkpoint else rival.split if rival else None
    if checkpoint:
        plan = Plan.from_json(checkpoint["plan"]).continued(plan_options)
    else:
        plan = make_plan([case.volume for case in cases], scheme, plan_options, machine.device)
    painted = {
        case.id: Painted(case.annotation, detected[case.id].slices, detected[case.id].stacked, _grid(case, plan))
        for case in cases
    }
    split = hold_out(painted, scheme, options.seed, earlier)
    run = _Run(cases, folder, options, machine, plan, split, rival, note)
    if checkpoint:
        run.continue_from(checkpoint)
    return run


def _grid(case: TrainingCase, plan: Plan) -> WorkingGrid:
    return WorkingGrid.of(case.volume.shape, case.volume.spacing, plan.spacing)


def _fitting_checkpoint(
    folder: ModelFolder, scheme: LabelScheme, channels: int, plan_options: PlanOptions
) -> tuple[Mapping[str, Any] | None, str]:
    """Return the checkpoint's content, or None and why it doesn't fit what is to be trained."""
    try:
        content = load_content(folder.checkpoint)
        plan, _ = Plan.from_json(content["plan"]), content["averaged"]
        check_fit(folder.checkpoint, plan, scheme, channels)
        if not plan.agrees_with(plan_options):
            raise InputError(
                f"{folder.checkpoint}: was trained by another --conf width, spacing, recipe, network or loss"
            )
    except (InputError, KeyError, TypeError) as error:
        return None, f"started afresh, since the last training cannot be continued ({error})"
    return content, ""


def _fitting_published(
    folder: ModelFolder, scheme: LabelScheme, channels: int, plan_options: PlanOptions
) -> Model | None:
    """Return the published model, as *Run* uses it, if it does the same task: a new one has to score as well."""
    if not folder.is_published():
        return None
    try:
        model = folder.load(scheme, channels)
        return replace(model, plan=model.plan.with_statistics(plan_options))
    except InputError:
        return None


class _Run:
    """One training run; its state is what a checkpoint holds."""

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        folder: ModelFolder,
        options: TrainingOptions,
        machine: Machine,
        plan: Plan,
        split: SliceSplit,
        rival: Model | None,
        note: str,
    ) -> None:
        self.folder, self.options, self.machine, self.plan, self.split = folder, options, machine, plan, split
        self.rival, self.note = rival, note
        self.id = datetime.now(timezone.utc).isoformat(timespec="microseconds")
        self.epoch = 0
        self.steps = 0
        self.seconds = 0.0
        self.published_score: float | None = None
        self._prepare(cases)

    def _prepare(self, cases: Sequence[TrainingCase]) -> None:
        """Split the annotations into what is learnt from and what is judged by."""
        volumes: list[TrainingVolume] = []
        for case in cases:
            learnt, _ = self.split.part(case.id, case.annotation, _grid(case, self.plan))
            volumes.append(prepare_training(case.volume, learnt, self.plan))
        self.learner = Learner(self.plan, volumes, self.machine.device, self.options.seed)
        images = [
            PreparedImage(
                case.volume.name,
                # A view on the CPU; a copy of what may be taken off a GPU that is short of memory.
                sampler.image.cpu(),
                _grid(case, self.plan),
                case.volume.outside,
            )
            for case, sampler in zip(cases, self.learner.sampler.images, strict=True)
        ]
        self.judged = self._judged(cases, images)
        tiles = self.plan.architecture.tiles
        self.evaluation_interval = self._evaluation_interval(sum(one.work(tiles) for one in self.judged))
        if self.rival:
            # Whatever it scored before: annotations may have changed since (design, rule 5).
            judged = self.judged
            if self.rival.plan.spacing != self.plan.spacing:
                judged = self._judged(cases, [PreparedImage.of(case.volume, self.rival.plan) for case in cases])
            self.published_score, _ = judge(
                self.rival.network, self.rival.plan, self.rival.precision, judged, self.machine
            )

    def _judged(self, cases: Sequence[TrainingCase], images: Sequence[PreparedImage]) -> list[Judged]:
        """Return what networks are judged by: the held-out slices, or the training slices where there are none."""
        judged = []
        is_held_out = self.split.has_validation
        slices = self.split.validation if is_held_out else self.split.training
        for case, image in zip(cases, images, strict=True):
            learnt, held_out = self.split.part(case.id, case.annotation, _grid(case, self.plan))
            judged.append(Judged.of(image, held_out if is_held_out else learnt, slices.get(case.id, [])))
        return [one for one in judged if one.parts]

    def _evaluation_interval(self, voxels: int) -> int:
        """Return every how many epochs to evaluate; counted in voxels, not seconds, so that runs can be repeated."""
        # A training step passes its tile forward once and backward at about twice the cost.
        one_epoch = 3 * self.plan.steps_per_epoch * self.learner.sampler.tile_voxels
        interval = math.ceil(voxels / (VALIDATION_SHARE * one_epoch))
        # Whoever presses Stop is to find a model, however large the volumes are.
        return min(interval, max(1, self.options.max_epochs // 10))

    @property
    def metric(self) -> str:
        return "validation IoU" if self.split.has_validation else "training IoU"

    def continue_from(self, checkpoint: Mapping[str, Any]) -> None:
        """Take over the network, and the course of the run too unless it has come to its end."""
        self.learner.load(checkpoint, with_momentum=False)
        # Never drawn again: each training iteration sees another image, also after the end of a run.
        self.steps = checkpoint["steps"]
        if checkpoint["finished"]:
            return
        self.epoch, self.seconds = checkpoint["epoch"], checkpoint["seconds"]
        if self._progress() >= 1:
            # The options ask for less than was done already: that run is over, a new one starts from its weights.
            self.epoch, self.seconds = 0, 0.0
            return
        self.learner.load(checkpoint, with_momentum=True)
        self.id = checkpoint["run"]

    def _save_checkpoint(self, finished: bool) -> None:
        content = {
            "format": FORMAT,
            "plan": self.plan.to_json(),
            "split": self.split.to_json(),
            **self.learner.state(),
            "run": self.id,
            "epoch": self.epoch,
            "seconds": self.seconds,
            "steps": self.steps,
            "finished": finished,
        }
        with replacing(self.folder.checkpoint) as beside:
            torch.save(content, beside)

    def _progress(self) -> float:
        """Return the part of the run that is done, 0 … 1."""
        progress = self.epoch / self.options.max_epochs
        if self.options.max_minutes:
            progress = max(progress, self.seconds / (60 * self.options.max_minutes))
        return min(progress, 1.0)

    def go(self, report: Callable[[Report], None]) -> Report:
        """Train until the options say stop."""
        with self.learner:
            return self._go(report)

    def _go(self, report: Callable[[Report], None]) -> Report:
        published = self.rival is not None and self.rival.run == self.id
        score: float | None = None
        iou: dict[str, float | None] | None = None
        saved = saving = 0.0
        while True:
            began, before = time.monotonic(), self.seconds
            course = self._train_epoch()
            self.epoch += 1
            self.seconds = before + time.monotonic() - began
            finished = self._progress() >= 1
            if finished or is_evaluated(self.epoch, self.evaluation_interval):
                network = self.learner.result()
                score, iou = judge(network, self.plan, self.learner.precision, self.judged, self.machine)
                if self.published_score is None or score >= self.published_score:
                    self.folder.publish(self._model(network, score))
                    self.published_score, published = score, True
                elif finished:
                    # Whether more slices still help is seen by runs that didn't publish, too.
                    self.folder.remember(self._model(network, score))
                self.seconds = before + time.monotonic() - began
            if finished or time.monotonic() - saved >= saving / SAVING_SHARE:
                saving = -time.monotonic()
                self._save_checkpoint(finished)
                saved = time.monotonic()
                saving += saved
            latest = self._report(course, score, iou, published, finished)
            report(latest)
            if finished:
                return latest

    def _report(
        self, course: Course, score: float | None, iou: dict[str, float | None] | None, published: bool, finished: bool
    ) -> Report:
        best = self.published_score
        if best is None:
            message = "no model is published yet"
        elif published:
            message = f"published with {self.metric} {best:.3f}"
        else:
            message = f"the published model keeps its place until one scores at least {best:.3f} ({self.metric})"
        if not self.split.has_validation:
            message += (
                "; too few annotated slices to hold any out, or none far enough from the others, so the IoU is that of "
                "what was trained on"
            )
        if course.left_out:
            message += f"; {course.left_out} steps of this epoch were left out, since they had no finite gradient"
        if self.note:
            message += f"; {self.note}"
        return {
            "run": self.id,
            "epoch": self.epoch,
            "total_epochs": self.options.max_epochs,
            "seconds": round(self.seconds, 1),
            "loss": course.loss,
            "waited": round(course.waited / course.seconds, 4),
            "metric": self.metric,
            "score": score,
            "iou": iou,
            "best_metric": best or 0.0,
            "published": published,
            "finished": finished,
            "message": message,
        }

    def _train_epoch(self) -> Course:
        """Train for an epoch, or until the time is up."""
        steps = range(self.steps, self.steps + self.plan.steps_per_epoch)
        began, before = time.monotonic(), self.seconds

        def progress() -> float:
            self.seconds = before + time.monotonic() - began
            return self._progress()

        course = self.learner.train(steps, progress)
        self.steps = steps.stop
        # Short of memory, it goes on with smaller tiles.
        self.plan = self.learner.plan
        if course.left_out and not self.learner.is_finite():
            raise InputError(
                f"training: the network's weights aren't finite in epoch {self.epoch + 1}, so {self.folder.checkpoint} "
                "holds nothing to continue from; train with start 'afresh'"
            )
        return course

    def _model(self, trained: nn.Module, score: float) -> Model:
        return Model(
            trained.cpu(), self.plan, self.split, score, self.metric, self.id, self.epoch, self.learner.precision
        )
