"""Simulated annotators, who let a strategy choose each next slice."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lib.core.annotation.paint import Paint
from lib.core.annotation.slices import AnnotatedSlice, keep_slices
from lib.core.annotation.suggestion import Evidence
from lib.core.data.training_volumes import prepare_training
from lib.core.device.machine import Machine
from lib.core.inference.segmenter import Segmenter
from lib.core.labels import UNLABELLED, LabelScheme
from lib.core.metrics import confusion, iou_per_class, mean_iou
from lib.core.plan.options import PlanOptions
from lib.core.plan.plan import Plan
from lib.core.plan.planning import make_plan
from lib.core.training.learner import Learner, LearnerState

from .provenance import commit, machine_name
from .strategies import STRATEGIES, Generator, StrategyInput
from .study import Subject

MOST_SLICES = 20
MEMORY = 3 * 10**9

PRECISION = torch.float32
"""Floating-point format of all annotators; if each chose by speed, they would differ. Without AVX-512, a training step
takes minutes in bfloat16."""

DENSE = "dense"

ENOUGH = 0.95
"""Part of the final IoU of dense annotation at which an annotator could stop."""


@dataclass(frozen=True)
class Schedule:
    """How annotation and training alternate.

    There must be enough steps for the annotation, not the training, to limit the result.

    Attributes:
        first_steps: training steps on one slice along each axis.
        steps: training steps after each further slice.
        most_slices: number of annotated slices at the end.
    """

    first_steps: int = 300
    steps: int = 100
    most_slices: int = MOST_SLICES

    @property
    def rounds(self) -> list[int]:
        """Number of steps of each training."""
        return [self.first_steps, *[self.steps] * (self.most_slices - 3)]


@dataclass(frozen=True)
class Game:
    """One annotator on one volume, who follows a strategy or, as the reference, annotates densely.

    Attributes:
        strategy: one of ``STRATEGIES``, or ``DENSE``.
        seed: seed of all randomness; all strategies have the same first slices.
    """

    strategy: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.strategy}-{self.seed}"


class GameSettings(TypedDict):
    """Everything that a game depends on, except how the software trains and segments; compared as a whole.

    ``checksum``: of the volume. ``code``: of the modules that choose slices. ``course``: numbers of the schedule.
    """

    checksum: int
    code: int
    course: list[int]
    plan: dict[str, Any]


class PlayedGame(TypedDict):
    """What happened in a game. The lists from ``slices`` to ``foreground`` have an entry for each training.

    ``slices``: their number; for the reference, the number that the others have after the same steps. ``iou``: mean
    foreground IoU on the whole volume. ``iou_unannotated``: see ``iou_elsewhere``. ``labelled`` and ``foreground``:
    labelled share of all voxels and of the foreground voxels, 0 … 1. ``places``: (axis, index) in the order of
    annotation. ``lengths``: of the boundaries in each of them.
    """

    strategy: str
    seed: int
    slices: list[int]
    iou: list[float]
    iou_unannotated: list[float]
    labelled: list[float]
    foreground: list[float]
    places: list[list[int]]
    lengths: list[int]
    seconds: float
    commit: str
    machine: str


class GameRecord(PlayedGame):
    """The same with its settings, as its JSON file holds it."""

    settings: GameSettings


def final_iou(dense: Sequence[Sequence[float]]) -> float:
    """Return the median of the final IoU of the reference's curves."""
    return median(curve[-1] for curve in dense)


def enough_iou(dense: Sequence[Sequence[float]]) -> float:
    """Return the IoU at which an annotator could stop: ``ENOUGH`` of the final IoU of dense annotation."""
    return ENOUGH * final_iou(dense)


def first_slices(shape: Sequence[int], generator: Generator) -> list[AnnotatedSlice]:
    """Draw one slice across each axis, from the middle third."""
    return [AnnotatedSlice(axis, int(generator.integers(n // 3, n - n // 3))) for axis, n in enumerate(shape)]


def play(subject: Subject, scheme: LabelScheme, game: Game, schedule: Schedule, device: str) -> PlayedGame:
    """Let a strategy choose slices, and train after each, on ``cpu`` or ``cuda``."""
    # Asked for before the game, because somebody may commit during it.
    software = commit()
    began = time.monotonic()
    generator = np.random.default_rng(game.seed)
    # The plan for a CPU everywhere, so that a game is the same up to rounding.
    plan = make_plan([subject.volume], scheme, PlanOptions(), "cpu")
    places = first_slices(subject.truth.shape, generator)
    player = _Player(subject, plan, game.seed, device)
    is_foreground = (subject.truth != UNLABELLED) & (subject.truth != scheme.background_value)
    slices, iou, elsewhere, labelled, foreground = [], [], [], [], []
    for number, steps in enumerate(schedule.rounds, start=len(places)):
        annotation = subject.truth if game.strategy == DENSE else keep_slices(subject.truth, places)
        player.train(annotation, steps)
        labels, uncertainty = player.segment()
        slices.append(number)
        iou.append(_iou(labels, subject.truth, scheme))
        elsewhere.append(iou_elsewhere(labels, subject.truth, annotation, scheme))
        labelled.append(float(np.mean(annotation != UNLABELLED)))
        foreground.append(float(np.mean(annotation[is_foreground] != UNLABELLED)) if is_foreground.any() else 0.0)
        if game.strategy != DENSE and number < schedule.most_slices:
            evidence = Evidence(scheme, annotation, labels, uncertainty)
            # The last choice is made one slice before the end.
            progress = (number - 3) / max(1, schedule.most_slices - 4)
            known = StrategyInput(evidence, places, subject.truth, progress, generator)
            places.append(STRATEGIES[game.strategy](known))
    return {
        "strategy": game.strategy,
        "seed": game.seed,
        "slices": slices,
        "iou": [round(value, 4) for value in iou],
        "iou_unannotated": [round(value, 4) for value in elsewhere],
        "labelled": [round(value, 4) for value in labelled],
        "foreground": [round(value, 4) for value in foreground],
        "places": [list(place) for place in places],
        "lengths": [int(boundary_lengths(subject.truth, place.axis)[place.index]) for place in places],
        "seconds": round(time.monotonic() - began, 1),
        "commit": software,
        "machine": machine_name(device),
    }


def _iou(labels: NDArray[np.uint8], truth: NDArray[np.uint8], scheme: LabelScheme) -> float:
    """Return the mean foreground IoU where the truth is known."""
    return mean_iou(iou_per_class(confusion(labels, truth, scheme), scheme)) or 0.0


def iou_elsewhere(
    labels: NDArray[np.uint8], truth: NDArray[np.uint8], annotation: NDArray[np.uint8], scheme: LabelScheme
) -> float:
    """Return the IoU of all foreground voxels together where nothing is annotated.

    The mean over the classes would jump when hardly any voxels of a class are left there.

    Args:
        labels: (X, Y, Z), 0 background, 1 … K foreground.
        truth: (X, Y, Z), 0 unknown, 1 … K+1.
        annotation: likewise, 0 unlabelled.
        scheme: the label scheme.

    Returns:
        0 … 1; 1 if there is no foreground, neither in the truth nor in the prediction.
    """
    counts = confusion(labels, np.where(annotation == UNLABELLED, truth, UNLABELLED).astype(np.uint8), scheme)
    both = int(counts.diagonal()[1:].sum())
    either = int(counts[1:].sum() + counts[:, 1:].sum()) - both
    return both / either if either else 1.0


def boundary_lengths(labels: NDArray[np.uint8], axis: int) -> NDArray[np.int64]:
    """Count, in each slice across an axis, the pairs of neighbouring voxels whose classes differ.

    Args:
        labels: (X, Y, Z), classes.
        axis: 0, 1 or 2.
    """
    planes = np.moveaxis(labels, axis, 0)
    lengths = np.zeros(len(planes), dtype=np.int64)
    for within in (1, 2):
        lengths += np.count_nonzero(np.diff(planes.astype(np.int16), axis=within), axis=(1, 2))
    return lengths


class _Player:
    """A network that trains on growing annotation of one volume."""

    def __init__(self, subject: Subject, plan: Plan, seed: int, device: str) -> None:
        self.subject, self.plan, self.seed = subject, plan, seed
        self.machine = Machine(device, MEMORY)
        self._state: LearnerState | None = None
        self._steps = 0
        self._network: nn.Module | None = None

    def train(self, annotation: NDArray[np.uint8], steps: int) -> None:
        """Continue training for ``steps`` steps on an annotation (X, Y, Z).

        The learning rate falls each time, as it does whenever somebody presses Train.
        """
        volume = prepare_training(self.subject.volume, Paint(annotation), self.plan)
        learner = Learner(self.plan, [volume], self.machine.device, self.seed)
        if self._state is not None:
            learner.load(self._state, with_momentum=True)
        learner.precision = PRECISION
        for number in range(steps):
            learner.train(range(self._steps, self._steps + 1), lambda part=number / steps: part)  # type: ignore[misc]
            self._steps += 1
        self._state = learner.state()
        self._network = learner.result()

    def segment(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return labels and entropy of the volume, both (X, Y, Z)."""
        assert self._network is not None
        segmenter = Segmenter(self._network, self.plan, PRECISION)
        return segmenter.segment_with_entropy(self.subject.volume, self.machine)
