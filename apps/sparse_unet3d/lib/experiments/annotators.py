"""An annotator who asks after each slice where to paint next, and the ways to choose it."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.annotations import AnnotatedSlice, keep_slices
from ..core.labels import LabelScheme
from ..core.learner import Learner
from ..core.machine import Machine
from ..core.metrics import confusion, iou_per_class, mean_iou
from ..core.plan import Plan, PlanOptions, make_plan
from ..core.preparation import prepare_training
from ..core.segmentation import Segmenter
from ..core.suggestion import Evidence, Scores, best_slices, evenly_spaced, mean_entropy, suggest_slices
from .run import commit
from .study import Subject

Generator = np.random.Generator

Choose = Callable[[Evidence, Sequence[AnnotatedSlice], int, Generator], AnnotatedSlice]
"""Chooses a slice, given what is known, the annotated slices, and how many were chosen before."""

MOST_SLICES = 20
MEMORY = 3 * 10**9
DENSE = "dense"

ENOUGH = 0.95
"""Part of the IoU reached by dense annotation at which an annotator could stop."""


def with_noise(scores: Scores, beta: float, generator: np.random.Generator) -> Scores:
    """Make scores of random ones: log score + Gumbel(0, 1/β), so that the best is drawn rather than taken.

    Args:
        scores: at least 0.
        beta: 1 draws slices in proportion to their scores; the larger, the surer the best is taken.
        generator: of randomness.

    Returns:
        Exponentials of the sums: at least 0, in the same order.
    """
    noisy = []
    for of_axis in scores:
        with np.errstate(divide="ignore"):
            logarithms = np.log(of_axis)
        noisy.append(np.exp(logarithms + generator.gumbel(0, 1 / beta, len(of_axis))))
    return tuple(noisy)


def certainty(round_: int, rounds: int = 10) -> float:
    """Return β of ``with_noise`` in a round: from 1 at first to 100 after some rounds."""
    return math.pow(100, min(1.0, round_ / rounds))


def _as_the_server(
    evidence: Evidence, annotated: Sequence[AnnotatedSlice], _chosen: int, _generator: Generator
) -> AnnotatedSlice:
    return suggest_slices(evidence.labels.shape, annotated, 1, evidence)[0].place


def _by_entropy_with_noise(
    evidence: Evidence, annotated: Sequence[AnnotatedSlice], chosen: int, generator: Generator
) -> AnnotatedSlice:
    return best_slices(with_noise(mean_entropy(evidence), certainty(chosen), generator), annotated, 1)[0][0]


def _evenly(
    evidence: Evidence, annotated: Sequence[AnnotatedSlice], _chosen: int, _generator: Generator
) -> AnnotatedSlice:
    return evenly_spaced(annotated, evidence.labels.shape, 1)[0]


def _at_random(
    evidence: Evidence, annotated: Sequence[AnnotatedSlice], _chosen: int, generator: Generator
) -> AnnotatedSlice:
    return _drawn([np.full(length, 1 / length) for length in evidence.labels.shape], annotated, generator)


def _by_foreground(
    evidence: Evidence, annotated: Sequence[AnnotatedSlice], _chosen: int, generator: Generator
) -> AnnotatedSlice:
    """Draw an axis, then a slice in proportion to the foreground predicted in it."""
    weights = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        foreground = np.count_nonzero(evidence.labels, axis=others) + 1e-3
        weights.append(foreground / foreground.sum())
    return _drawn(weights, annotated, generator)


def _drawn(
    weights: Sequence[NDArray[np.float64]], annotated: Sequence[AnnotatedSlice], generator: Generator
) -> AnnotatedSlice:
    places = [AnnotatedSlice(axis, index) for axis, own in enumerate(weights) for index in range(len(own))]
    chances = np.array([0.0 if place in annotated else weights[place.axis][place.index] for place in places])
    return places[generator.choice(len(places), p=chances / chances.sum())]


STRATEGIES: Mapping[str, Choose] = {
    "next_slice": _as_the_server,
    "with_noise": _by_entropy_with_noise,
    "evenly_spaced": _evenly,
    "random": _at_random,
    "foreground_random": _by_foreground,
}

OURS = "next_slice"
BASELINES = ("evenly_spaced", "random", "foreground_random")


@dataclass(frozen=True)
class Course:
    """How an annotator and the model work together.

    Attributes:
        first_steps: of training on one slice along each axis.
        steps: of training after each further slice.
        most_slices: annotated at the end.
    """

    first_steps: int = 100
    steps: int = 40
    most_slices: int = MOST_SLICES

    @property
    def all_steps(self) -> int:
        return self.first_steps + self.steps * (self.most_slices - 3)


@dataclass(frozen=True)
class Game:
    """One annotator on one volume: by a strategy, or for reference with dense annotation.

    Attributes:
        strategy: one of ``STRATEGIES``, or ``DENSE``.
        seed: of all randomness; the first slices are the same for all strategies.
    """

    strategy: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.strategy}-{self.seed}"


Record = dict[str, Any]
"""What is kept of a game: ``strategy``, ``seed``, ``settings``, ``slices`` (how many) and ``iou`` after each training,
``places`` (axis, index) in the order in which they were annotated, ``seconds``, ``commit``."""


def first_slices(shape: Sequence[int], generator: Generator) -> list[AnnotatedSlice]:
    """Draw one slice across each axis, from the middle third."""
    return [AnnotatedSlice(axis, int(generator.integers(n // 3, n - n // 3))) for axis, n in enumerate(shape)]


def play(subject: Subject, scheme: LabelScheme, game: Game, course: Course) -> Record:
    """Let a strategy choose slices until there are enough, training after each."""
    began = time.monotonic()
    generator = np.random.default_rng(game.seed)
    plan = make_plan([subject.volume], scheme, PlanOptions(), "cpu")
    places = first_slices(subject.truth.shape, generator)
    player = _Player(subject, plan, game.seed)
    if game.strategy == DENSE:
        player.train(subject.truth, course.all_steps)
        labels, _ = player.segment()
        slices, iou = [0], [_iou(labels, subject.truth, scheme)]
    else:
        slices, iou = [], []
        while True:
            annotation = keep_slices(subject.truth, places)
            player.train(annotation, course.steps if iou else course.first_steps)
            labels, uncertainty = player.segment()
            slices.append(len(places))
            iou.append(_iou(labels, subject.truth, scheme))
            if len(places) >= course.most_slices:
                break
            evidence = Evidence(scheme, annotation, labels, uncertainty)
            places.append(STRATEGIES[game.strategy](evidence, places, len(places) - 3, generator))
    return {
        "strategy": game.strategy,
        "seed": game.seed,
        "slices": slices,
        "iou": [round(value, 4) for value in iou],
        "places": [list(place) for place in places],
        "seconds": round(time.monotonic() - began, 1),
        "commit": commit(),
    }


def _iou(labels: NDArray[np.uint8], truth: NDArray[np.uint8], scheme: LabelScheme) -> float:
    """Return the mean foreground IoU on the whole volume: on what a strategy didn't choose, all would differ."""
    return mean_iou(iou_per_class(confusion(labels, truth, scheme), scheme)) or 0.0


class _Player:
    """The network, trained on ever more annotation of one volume."""

    def __init__(self, subject: Subject, plan: Plan, seed: int) -> None:
        self.subject, self.plan, self.seed = subject, plan, seed
        self._state: Mapping[str, Any] | None = None
        self._steps = 0
        self._segmenter: Segmenter | None = None

    def train(self, annotation: NDArray[np.uint8], steps: int) -> None:
        """Go on with training, on this annotation (X, Y, Z), for so many steps."""
        learner = Learner(self.plan, [prepare_training(self.subject.volume, annotation, self.plan)], "cpu", self.seed)
        if self._state is not None:
            learner.load(self._state, with_momentum=True)
        learner.train(range(self._steps, self._steps + steps), lambda: 0.0)
        self._steps += steps
        self._state = learner.state()
        self._segmenter = Segmenter(learner.result(), self.plan, learner.precision)

    def segment(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        assert self._segmenter is not None
        return self._segmenter.segment_with_entropy(self.subject.volume, Machine("cpu", MEMORY))
