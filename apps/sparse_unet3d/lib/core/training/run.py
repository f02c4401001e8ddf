"""A training run: epochs, scores on held-out slices, publishing, checkpoints."""

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from torch import nn

from lib.core.annotation.holding_out import Painted, hold_out
from lib.core.annotation.slices import Detected, detect, fill_unpainted
from lib.core.annotation.split import SliceSplit
from lib.core.data.large_image import LargeImage
from lib.core.data.preparation import PreparedImage
from lib.core.data.training_volumes import as_prepared, prepare_training, prepared
from lib.core.device.machine import Machine
from lib.core.device.this_machine import this_machine
from lib.core.errors import InputError, Stopped
from lib.core.inference.statistics import sampled_voxels
from lib.core.labels import LabelScheme
from lib.core.model.folder import ModelFolder
from lib.core.model.model import Model
from lib.core.model.origin import Origin, Paint, together
from lib.core.network.batch_norm import Statistics
from lib.core.plan.options import PlanOptions
from lib.core.plan.plan import Plan
from lib.core.plan.planning import make_plan
from lib.core.software import software
from lib.core.volumes.working_grid import WorkingGrid

from .cases import TrainingCase, check_cases, digest
from .checkpoint import Checkpoint
from .evaluation import ScoredRegion, score_network
from .learner import STATISTICS_TILES, Learner, StepsMade
from .options import TrainingOptions
from .publishing import Publisher, fitting_model
from .ranks import ALONE, Ranks
from .report import TrainingReport
from .score import Score

FIRST_COMPARED = 8
"""Statistics are first compared when at least so many epochs are done, or at the end of a shorter run."""

VALIDATION_SHARE = 0.1
"""Approximate share of the training time that validation takes, except in the first epochs."""

SAVING_SHARE = 0.05
"""Largest share of the time for saving checkpoints. On a GPU, that of a wide network takes longer than an epoch."""


def is_evaluated(epoch: int, interval: int) -> bool:
    """Return whether a run is scored after this epoch, counted from 1.

    A network learns fastest at the beginning. A run is therefore scored after epochs 3, 6, 12, 24, … as long as these
    are no farther apart than the interval, and after that at the interval.
    """
    evaluated = min(3, interval)
    while evaluated < epoch:
        evaluated += min(interval, evaluated)
    return evaluated == epoch


def is_compared(epoch: int, before: int, finished: bool) -> bool:
    """Return whether statistics are compared after this epoch, which is scored; ``before`` is the last one that was.

    They are compared when the number of epochs first exceeds 7, 31, 127, …, so that it takes a small part of the time.
    A run of fewer than ``FIRST_COMPARED`` epochs compares them at its end.
    """
    return epoch.bit_length() // 2 > max(1, before.bit_length() // 2) or (finished and epoch < FIRST_COMPARED)


def train(
    cases: Sequence[TrainingCase],
    scheme: LabelScheme,
    folder: ModelFolder,
    options: TrainingOptions,
    plan_options: PlanOptions,
    machine: Machine | None = None,
    report: Callable[[TrainingReport], None] = lambda _: None,
    raise_if_stopping: Callable[[], None] = lambda: None,
    ranks: Ranks = ALONE,
) -> TrainingReport:
    """Train a network on a few annotated slices, and publish it unless the published one is better on held-out slices.

    The process may be killed at any time: the folder's checkpoint holds all that is needed to continue. It is saved
    after the first epoch, and then every few epochs.

    Args:
        cases: annotated volumes, as painted; those without any paint are left out.
        scheme: the label scheme.
        folder: where models are kept; it is made if it doesn't exist.
        options: what a person set: how long to train, whether to continue the last training, the seed.
        plan_options: what a person decided about the plan, such as the network's width.
        machine: what to compute on; None for ``this_machine``, the GPU if there is one.
        report: called after each epoch, on rank 0.
        raise_if_stopping: called before each step and between tiles; to end the training, it raises ``Stopped``.
        ranks: the processes that train together. Each calls this with the same arguments, with cases that it has read
            itself, and with the same folder, into which only rank 0 writes.

    Returns:
        The last report.

    Raises:
        InputError: the cases can't be trained on (``check_cases``), or another rank has others.
        Locked: another process has held the folder's lock for a minute.
        OSError: the folder can't be written to.
        Stopped: by ``raise_if_stopping``; the checkpoint holds every step that was made.

    Examples:
        Paint seven slices of the cell (see ``read_volume``), and train a tiny network for some seconds:

        >>> import numpy as np
        >>> from lib.core.labels import LabelScheme
        >>> from lib.core.model.folder import ModelFolder
        >>> from lib.core.plan.options import PlanOptions
        >>> from lib.core.training.cases import TrainingCase
        >>> from lib.core.training.options import TrainingOptions
        >>> from lib.core.training.run import train
        >>> from lib.core.volumes.reading import read_label_map, read_volume, write_label_map
        >>> volume, truth = read_volume("cell.nii.gz"), read_label_map("truth.nii.gz").array
        >>> painted = np.zeros(volume.shape, np.uint8)
        >>> for k in range(3, 24, 3):
        ...     painted[:, :, k] = np.where(truth[:, :, k] == 1, 1, 2)
        >>> write_label_map("painted.nii.gz", painted, volume.affine)

        >>> scheme = LabelScheme(("cell",), "outside")
        >>> options, plan_options = TrainingOptions(max_epochs=2), PlanOptions(width=2)
        >>> case = TrainingCase("cell", volume, painted)
        >>> report = train([case], scheme, ModelFolder("models"), options, plan_options)
        >>> report["finished"], report["published"]
        (True, True)
    """
    machine = machine or this_machine(None)
    cases = [case for case in cases if case.paint.labelled]
    detected = {case.id: detect(case.paint) for case in cases}
    if plan_options.unpainted == "background":
        cases = [
            TrainingCase(
                case.id,
                case.volume,
                fill_unpainted(case.paint.array(), detected[case.id].slices, scheme),
                case.version,
            )
            for case in cases
        ]
    check_cases(cases, scheme)
    if not ranks.all_have(digest(cases)):
        raise InputError("training: the annotations changed while several processes read them; train again")
    start = ranks.by_first(lambda: _decide(cases, detected, scheme, folder, options, plan_options, machine))
    run = _Run(cases, folder, options, plan_options, machine, start, raise_if_stopping, ranks)
    if start.checkpoint:
        run.continue_from(start.checkpoint)
    return run.go(report)


@dataclass(frozen=True)
class _Start:
    """What is decided before a run.

    Attributes:
        checkpoint: what to continue from, if anything.
        plan: the plan by which to train.
        split: what to train on and what to hold out.
        note: for people, why the last training isn't continued, if it isn't.
    """

    checkpoint: Checkpoint | None
    plan: Plan
    split: SliceSplit
    note: str


def _decide(
    cases: Sequence[TrainingCase],
    detected: Mapping[str, Detected],
    scheme: LabelScheme,
    folder: ModelFolder,
    options: TrainingOptions,
    plan_options: PlanOptions,
    machine: Machine,
) -> _Start:
    """Decide how a run starts; continue an earlier one if the checkpoint allows it."""
    channels = cases[0].volume.channels
    checkpoint, note = None, ""
    if options.start == "continue" and folder.checkpoint.is_file():
        try:
            checkpoint = Checkpoint.load(folder.checkpoint, scheme, channels, plan_options)
        except InputError as error:
            note = f"started afresh, since the last training cannot be continued ({error})"
    if checkpoint:
        earlier: SliceSplit | None = checkpoint.split
        plan = checkpoint.plan.continued(plan_options)
    else:
        published = fitting_model(folder, scheme, channels, plan_options)
        earlier = published.split if published else None
        plan = make_plan([case.volume for case in cases], scheme, plan_options, machine.device)
    painted = {
        case.id: Painted(case.paint, detected[case.id].slices, detected[case.id].stacked, _grid(case, plan))
        for case in cases
    }
    return _Start(checkpoint, plan, hold_out(painted, scheme, options.seed, earlier), note)


def _grid(case: TrainingCase, plan: Plan) -> WorkingGrid:
    return WorkingGrid.of(case.volume.shape, case.volume.spacing, plan.spacing)


class _Run:
    """One training run; its state is what a checkpoint holds."""

    def __init__(
        self,
        cases: Sequence[TrainingCase],
        folder: ModelFolder,
        options: TrainingOptions,
        plan_options: PlanOptions,
        machine: Machine,
        start: _Start,
        raise_if_stopping: Callable[[], None],
        ranks: Ranks,
    ) -> None:
        plan, split = start.plan, start.split
        self.folder, self.options, self.machine, self.plan, self.split = folder, options, machine, plan, split
        self.note, self.raise_if_stopping, self.ranks = start.note, raise_if_stopping, ranks
        self.id = datetime.now(timezone.utc).isoformat(timespec="microseconds")
        versions = [case.version for case in cases if case.version]
        self.paint: Paint = tuple(sorted(versions)) if len(versions) == len(cases) else None
        self.epoch = 0
        self.steps = self.begun = 0
        self.seconds = 0.0
        self.score: Score | None = None
        self._last_scored = 0
        # How many seconds the last score took.
        self._scoring = 0.0
        # When the last checkpoint was saved, and how long that took.
        self._saved = self._saving = 0.0
        # For each case, the annotation to train on and the one held out.
        parts = [split.part(case.id, case.paint, _grid(case, plan)) for case in cases]
        volumes = []
        for case, (trained, _) in zip(cases, parts, strict=True):
            raise_if_stopping()
            volumes.append(prepare_training(case.volume, trained, plan))
        self.learner = Learner(plan, volumes, machine.device, options.seed, ranks)
        scored = [held_out if split.has_validation else trained for trained, held_out in parts]
        slices = split.validation if split.has_validation else split.training

        def regions(images: Iterable[PreparedImage | LargeImage]) -> list[ScoredRegion]:
            found = [
                ScoredRegion.of(image, paint, slices.get(case.id, []))
                for case, image, paint in zip(cases, images, scored, strict=True)
            ]
            return [region for region in found if region.parts]

        # Views on the CPU; if training draws its tiles on a GPU, it has copies there.
        self.regions = regions(
            as_prepared(case.volume, volume.image, plan) for case, volume in zip(cases, volumes, strict=True)
        )
        self.evaluation_interval = self._evaluation_interval()

        def regions_by(other: Plan) -> list[ScoredRegion]:
            if other.spacing == plan.spacing:
                return self.regions
            return regions(as_prepared(case.volume, prepared(case.volume, other), other) for case in cases)

        self.publisher = Publisher(
            folder, plan.scheme, cases[0].volume.channels, plan_options, machine, regions_by, raise_if_stopping
        )
        ranks.by_first(self.publisher.look)

    def _evaluation_interval(self) -> int:
        """Return the number of epochs between scores. Voxels decide, not seconds, so that runs can be repeated."""
        plan, tile = self.plan, self.learner.sampler.tile_voxels
        voxels = sum(region.work(plan.architecture.tiles) for region in self.regions)
        # What a run may choose counts, not what it has chosen, so that a continued run has the same interval.
        if plan.passes_volumes:
            voxels += sum(sampled_voxels(region.image.grid.working, plan) for region in self.regions)
        if plan.keeps_averages:
            voxels += STATISTICS_TILES * tile
        # A training step passes its tile forward once and backward at about twice the cost.
        one_epoch = 3 * plan.steps_per_epoch * tile
        interval = math.ceil(voxels / (VALIDATION_SHARE * one_epoch))
        # Whoever presses Stop should find a model, however large the volumes are.
        return min(interval, max(1, self.options.max_epochs // 10))

    @property
    def metric(self) -> str:
        return "validation IoU" if self.split.has_validation else "training IoU"

    def continue_from(self, checkpoint: Checkpoint) -> None:
        """Load a checkpoint's network and, unless its run has ended, continue that run."""
        self.learner.load(checkpoint.learner, with_momentum=False)
        self.paint = together(self.paint, checkpoint.paint)
        # Step numbers continue even after the end of a run, so that no training tile is ever drawn twice.
        self.steps = checkpoint.steps
        # The scores of a new run will take about as long, too.
        self._scoring = checkpoint.scoring
        if checkpoint.finished:
            return
        self.epoch, self.seconds, self.begun = checkpoint.epoch, checkpoint.seconds, checkpoint.begun
        self._last_scored = checkpoint.last_scored
        if self._progress(self.epoch) >= 1:
            # The options ask for less than is already done: that run has ended, and a new one starts from its weights.
            self.epoch, self.seconds, self.begun, self._last_scored = 0, 0.0, 0, 0
            return
        self.learner.load(checkpoint.learner, with_momentum=True)
        self.id = checkpoint.run

    def _save_checkpoint(self, finished: bool) -> None:
        state = self.learner.state()
        Checkpoint(
            plan=self.plan,
            split=self.split,
            learner=state,
            run=self.id,
            epoch=self.epoch,
            seconds=self.seconds,
            scoring=self._scoring,
            last_scored=self._last_scored,
            steps=self.steps,
            begun=self.begun,
            finished=finished,
            paint=self.paint,
        ).save(self.folder.checkpoint)

    def _progress(self, epochs: int, more: float = 0.0) -> float:
        """Return the fraction of the run's training steps that is done after some epochs and more seconds, 0 … 1."""
        progress = epochs / self.options.max_epochs
        if self.options.max_minutes:
            limit = 60 * self.options.max_minutes
            # Whatever scores take, half of the time is for training.
            ending = min(self._scoring + (0.0 if self._has_compared else self._comparing()), limit / 2)
            progress = max(progress, (self.seconds + more) / (limit - ending))
        return min(progress, 1.0)

    @property
    def _has_compared(self) -> bool:
        """Whether statistics have been compared in this run, or never are."""
        return not self.split.has_validation or self._last_scored >= FIRST_COMPARED

    def _comparing(self) -> float:
        """Return the seconds that a comparison of statistics would take, judged by the last score."""
        return self._scoring * len(self._other_statistics())

    def _leaves_time(self, seconds: float) -> bool:
        """Return whether so many seconds are left."""
        return not self.options.max_minutes or self.seconds + seconds <= 60 * self.options.max_minutes

    def go(self, report: Callable[[TrainingReport], None]) -> TrainingReport:
        """Train as long as the options say; return the last report."""
        with self.learner:
            try:
                return self._go(report)
            except Stopped:
                # The others wait: when one process has ended, torchrun ends the rest by force.
                self.ranks.by_first(lambda: self._save_checkpoint(finished=False))
                raise

    def _go(self, report: Callable[[TrainingReport], None]) -> TrainingReport:
        while True:
            began, before = time.monotonic(), self.seconds
            made = self._train_epoch()
            self.seconds = before + time.monotonic() - began
            latest = self.ranks.by_first(functools.partial(self._end_epoch, made, report))
            self.epoch, self.begun = latest["epoch"], 0
            if latest["finished"]:
                return latest

    def _end_epoch(self, made: StepsMade, report: Callable[[TrainingReport], None]) -> TrainingReport:
        """Score and publish the network if it is time for that, save the checkpoint, and report."""
        began, before = time.monotonic(), self.seconds
        epoch = self.epoch + 1
        finished = self._progress(epoch) >= 1
        # The last score follows at once if this one would leave no time for training in between.
        scores = is_evaluated(epoch, self.evaluation_interval) and self._progress(epoch, self._scoring) < 1
        if finished or scores:
            network = self.learner.result()
            score = self._scored(network, self.plan)
            self._scoring = time.monotonic() - began
            published = self._offer(network, score)
            self.seconds = before + time.monotonic() - began
            finished = finished or self._progress(epoch) >= 1
            compares = self.split.has_validation and is_compared(epoch, self._last_scored, finished)
            # Time is kept for the first comparison. A later one is left out where it doesn't fit.
            if compares and (not self._has_compared or self._leaves_time(self._comparing())):
                published |= self._compare_statistics(network)
            self._last_scored = epoch
            # Runs that published nothing also show whether more slices still help.
            if not published and finished:
                self.folder.remember(self._model(network))
            self.seconds = before + time.monotonic() - began
        self.epoch, self.begun = epoch, 0
        if finished or time.monotonic() - self._saved >= self._saving / SAVING_SHARE:
            self._saving = -time.monotonic()
            self._save_checkpoint(finished)
            self._saved = time.monotonic()
            self._saving += self._saved
        latest = self._report(made, finished)
        report(latest)
        return latest

    def _scored(self, network: nn.Module, plan: Plan) -> Score:
        return score_network(network, plan, self.learner.precision, self.regions, self.machine, self.raise_if_stopping)

    def _offer(self, network: nn.Module, score: Score) -> bool:
        """Let the publisher decide on a network; return whether it was published."""
        self.score = score
        return self.publisher.offer(self._model(network), score)

    def _compare_statistics(self, network: nn.Module) -> bool:
        """Normalise by other statistics from now on if by those used so far the network is credibly worse.

        Returns:
            Whether the network was published with other statistics.
        """
        assert self.score is not None
        published = False
        for statistics in self._other_statistics():
            other = replace(self.plan, statistics=statistics)
            score = self._scored(network, other)
            if self.score.is_credibly_worse_than(score):
                self.plan = self.learner.plan = other
                published |= self._offer(network, score)
        return published

    def _other_statistics(self) -> list[Statistics]:
        # Running statistics depend on the training volumes' brightness. One volume can't show whether they suit others.
        left_out = {self.plan.statistics, "running" if len(self.regions) == 1 else ""}
        return [each for each in self.plan.chosen_from if each not in left_out]

    def _report(self, made: StepsMade, finished: bool) -> TrainingReport:
        best, published = self.publisher.score and self.publisher.score.mean, self.publisher.run == self.id
        if best is None:
            message = "no model is published yet"
        elif published:
            message = f"published with {self.metric} {best:.3f}"
        elif self.score is None:
            message = f"the published model is kept until the first score ({self.metric} {best:.3f})"
        else:
            message = f"the published model is kept, since it is better on the same slices ({self.metric} {best:.3f})"
        if not self.split.has_validation:
            message += (
                "; no slice could be held out, since there are too few annotated slices or none is far enough from the "
                "others, so the IoU is that of the training slices"
            )
        if made.left_out:
            message += f"; {made.left_out} steps of this epoch were skipped, since their gradients weren't finite"
        if self.note:
            message += f"; {self.note}"
        return {
            "run": self.id,
            "epoch": self.epoch,
            "total_epochs": self.options.max_epochs,
            "seconds": round(self.seconds, 1),
            "loss": made.loss,
            "waited": round(made.waited / made.seconds, 4) if made.waited else 0.0,
            "metric": self.metric,
            "score": self.score.mean if self.score else None,
            "iou": self.score.per_class if self.score else None,
            "best_metric": best or 0.0,
            "published": published,
            "finished": finished,
            "message": message,
        }

    def _train_epoch(self) -> StepsMade:
        """Train for an epoch or what is left of it, or until the time is up."""
        first, left = self.steps, self.plan.steps_per_epoch - self.begun
        began, before, begun, calls = time.monotonic(), self.seconds, self.begun, itertools.count()

        def progress() -> float:
            self.seconds = before + time.monotonic() - began
            made = next(calls)
            self.steps, self.begun = first + made, begun + made
            return self.ranks.agree(self.raise_if_stopping, self._progress(self.epoch))

        made = self.learner.train(range(first, first + left), progress)
        self.steps, self.begun = first + left, begun + left
        # Short of memory, the learner continues with smaller tiles.
        self.plan = self.learner.plan
        if made.left_out and not self.learner.is_finite():
            raise InputError(
                f"training: the network's weights aren't finite in epoch {self.epoch + 1}, so {self.folder.checkpoint} "
                "holds nothing to continue from; train with start 'afresh'"
            )
        return made

    def _model(self, trained: nn.Module) -> Model:
        assert self.score is not None
        return Model(
            trained.cpu(),
            self.plan,
            self.split,
            self.score.mean,
            self.metric,
            self.id,
            self.epoch + 1,
            self.learner.precision,
            Origin(self.options.seed, software(), self.score.per_class, self.paint),
        )
