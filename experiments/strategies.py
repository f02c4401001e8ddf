"""Ways to choose the slice that is annotated next, to be compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from lib.core.annotation.slices import AnnotatedSlice
from lib.core.annotation.suggestion import Evidence, evenly_spaced, suggest_slices
from lib.core.labels import UNLABELLED

Generator = np.random.Generator

STRATIFIED = 0.66
"""Part of the queries of ClaSP PE that belong to one foreground class each."""

POWERS = (1.0, 100.0)
"""Power of the scores in the first and in the last query of ClaSP PE."""


@dataclass(frozen=True)
class StrategyInput:
    """What a strategy knows when it chooses.

    Attributes:
        evidence: what the model predicts now.
        annotated: the slices that are annotated, each completely.
        truth: (X, Y, Z), 0 unknown, 1 … K foreground, K+1 background; for strategies that were published so.
        progress: of the annotator, from 0 in the first choice to 1 in the last.
        generator: source of randomness.
    """

    evidence: Evidence
    annotated: Sequence[AnnotatedSlice]
    truth: NDArray[np.uint8]
    progress: float
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
    places = _free(known)
    chances = np.array([1 / known.shape[place.axis] for place in places])
    return _drawn(places, chances, known.generator)


def _foreground_aware(part: float) -> Choose:
    """Make a foreground-aware random strategy: Lüth et al. 2025, nnActive, arXiv 2511.19183, and its code.

    As published: in ``part`` of all queries a foreground class of the truth is drawn, each with the same chance; then,
    half and half, one of its voxels or one at its border (those that an erosion by the six neighbours removes). The
    patch around this voxel is queried. In the other queries it is any patch. A patch that overlaps annotated ones is
    drawn again. The truth stands for a person who sees at a glance where the structures are.

    Adapted: the patch is a slice through the voxel, across an axis that is drawn too. Only a slice that is annotated
    itself is drawn again, since every slice meets those across other axes. If none is left, it is any slice.

    Args:
        part: 2/3 for the paper's Random 66 % FG, 1/3 for its Random 33 % FG.
    """

    def choose(known: StrategyInput) -> AnnotatedSlice:
        classes = [value for value in range(1, len(known.evidence.scheme.classes)) if (known.truth == value).any()]
        if not classes or known.generator.random() >= part:
            return _at_random(known)
        area = known.truth == known.generator.choice(classes)
        if known.generator.random() < 0.5:
            area &= ~binary_erosion(area, border_value=1)
        # The chance of a slice is that of its voxels. Each axis has all voxels, so all axes have the same chance.
        places = _free(known)
        chances = _by_slice(area, places)
        if not chances.any():
            return _at_random(known)
        return _drawn(places, chances, known.generator)

    return choose


def _clasp_pe(known: StrategyInput) -> AnnotatedSlice:
    """Choose by ClaSP PE, class-stratified scheduled power predictive entropy: Lüth et al. 2026, arXiv 2601.13677.

    As published, and as in the code of nnActive where the paper leaves details open: a patch scores the mean predictive
    entropy of its voxels. 66 % of the patches of a query belong to the foreground classes, each class having the same
    number; for these, the entropy of a voxel is multiplied by the probability of the class. The other patches are
    chosen by entropy alone. Gumbel noise of scale 1/β is added to the logarithm of each score, so that a patch is drawn
    in proportion to its score to the power β. β rises exponentially over the queries: diverse patches come first,
    uncertain ones later.

    Adapted: the patch is a slice across any axis. A query is one slice, so its class is drawn, with these parts as
    chances. The progress of the annotator is that of the queries. Labelled voxels count as certain, because slices
    across different axes meet, while patches don't overlap. The probability is 1 for the predicted class and 0 for the
    others, since the segmentation keeps no probabilities. Entropy alone decides about a class that isn't predicted.

    The first β is that of nnActive's power predictive entropy. The last one is our choice, as we haven't found the
    published one.
    """
    evidence, places = known.evidence, _free(known)
    # A model may be certain and wrong, so every voxel is uncertain at least a little.
    entropy = np.where(evidence.annotation == UNLABELLED, np.maximum(evidence.entropy, 1), 0)
    scores = _by_slice(entropy, places)
    if known.generator.random() < STRATIFIED:
        value = known.generator.integers(1, len(evidence.scheme.classes))
        of_class = _by_slice(np.where(evidence.labels == value, entropy, 0), places)
        scores = of_class if of_class.any() else scores
    sizes = np.array([np.prod(known.shape) / known.shape[place.axis] for place in places])
    with np.errstate(divide="ignore"):
        noisy = np.log(scores / sizes) + known.generator.gumbel(0, 1 / power(known.progress), len(places))
    return places[int(np.argmax(noisy))]


def power(progress: float) -> float:
    """Return the power β of ClaSP PE's scores, which rises exponentially from the first of ``POWERS`` to the last.

    Args:
        progress: from 0 in the first query to 1 in the last.
    """
    first, last = POWERS
    return float(first * (last / first) ** progress)


def _free(known: StrategyInput) -> list[AnnotatedSlice]:
    """Return all slices that aren't annotated."""
    places = (AnnotatedSlice(axis, index) for axis, length in enumerate(known.shape) for index in range(length))
    taken = set(known.annotated)
    return [place for place in places if place not in taken]


def _drawn(places: Sequence[AnnotatedSlice], chances: NDArray[np.float64], generator: Generator) -> AnnotatedSlice:
    """Draw one of the slices in proportion to their chances."""
    return places[generator.choice(len(places), p=chances / chances.sum())]


def _by_slice(values: NDArray[Any], places: Sequence[AnnotatedSlice]) -> NDArray[np.float64]:
    """Sum a map (X, Y, Z) over the voxels of each slice."""
    sums = [values.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64) for axis in range(3)]
    return np.array([sums[axis][index] for axis, index in places])


STRATEGIES: Mapping[str, Choose] = {
    "next_slice": _as_the_server,
    "evenly_spaced": _evenly,
    "random": _at_random,
    "random_33_fg": _foreground_aware(1 / 3),
    "random_66_fg": _foreground_aware(2 / 3),
    "clasp_pe": _clasp_pe,
}

OURS = "next_slice"
BASELINES = ("evenly_spaced", "random", "random_33_fg", "random_66_fg", "clasp_pe")
