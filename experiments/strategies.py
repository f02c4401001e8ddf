"""Ways to choose the slice that is annotated next, to be compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lib.core.annotation.slices import AnnotatedSlice
from lib.core.annotation.suggestion import Evidence, evenly_spaced, suggest_slices

Generator = np.random.Generator


@dataclass(frozen=True)
class StrategyInput:
    """What a strategy knows when it chooses.

    Attributes:
        evidence: what the model predicts now.
        annotated: the slices that are annotated, each completely.
        generator: source of randomness.
    """

    evidence: Evidence
    annotated: Sequence[AnnotatedSlice]
    generator: Generator

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the volume."""
        return self.evidence.labels.shape


Choose = Callable[[StrategyInput], AnnotatedSlice]


def _as_the_server(known: StrategyInput) -> AnnotatedSlice:
    return suggest_slices(known.shape, known.annotated, 1, known.evidence)[0].place


def _evenly(known: StrategyInput) -> AnnotatedSlice:
    return evenly_spaced(known.annotated, known.shape, 1)[0]


def _at_random(known: StrategyInput) -> AnnotatedSlice:
    """Draw an axis, then one of its slices."""
    return _drawn([np.full(length, 1 / length) for length in known.shape], known)


def _by_foreground(known: StrategyInput) -> AnnotatedSlice:
    """Draw an axis, then a slice in proportion to the foreground predicted in it."""
    weights = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        foreground = np.count_nonzero(known.evidence.labels, axis=others) + 1e-3
        weights.append(foreground / foreground.sum())
    return _drawn(weights, known)


def _drawn(weights: Sequence[NDArray[np.float64]], known: StrategyInput) -> AnnotatedSlice:
    places = [AnnotatedSlice(axis, index) for axis, own in enumerate(weights) for index in range(len(own))]
    chances = np.array([0.0 if place in known.annotated else weights[place.axis][place.index] for place in places])
    return places[known.generator.choice(len(places), p=chances / chances.sum())]


STRATEGIES: Mapping[str, Choose] = {
    "next_slice": _as_the_server,
    "evenly_spaced": _evenly,
    "random": _at_random,
    "foreground_random": _by_foreground,
}

OURS = "next_slice"
BASELINES = ("evenly_spaced", "random", "foreground_random")
