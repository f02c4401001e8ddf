"""Which slices are worth annotating next: those on which the model is unsure, far from what is annotated."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from .annotations import AnnotatedSlice
from .labels import UNLABELLED, LabelScheme

REACH = 0.05
"""Part of an axis within which a slice looks much like an annotated one; at least one slice."""

FEW = 0.002
"""Part of a slice's voxels below which what is predicted there of a class counts for less."""

Scores = tuple[NDArray[np.float64], ...]
"""For each axis the score of each slice across it, at least 0."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of a volume, all maps (X, Y, Z).

    Attributes:
        scheme: the label scheme.
        annotation: 0 unlabelled, 1 … K+1.
        labels: what the model says last, 0 background, 1 … K foreground.
        entropy: how unsure it is, 0 … 255, see ``inference.entropy``.
    """

    scheme: LabelScheme
    annotation: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    entropy: NDArray[np.uint8]


@dataclass(frozen=True)
class Suggestion:
    """A slice that is worth annotating.

    Attributes:
        place: the slice.
        score: 0 … 1, how much; None where it was chosen without a model.
        why: for people.
    """

    place: AnnotatedSlice
    score: float | None
    why: str


def suggest_slices(
    shape: Sequence[int], annotated: Sequence[AnnotatedSlice], count: int, evidence: Evidence | None
) -> list[Suggestion]:
    """Suggest slices to annotate next, spread over the volume.

    Args:
        shape: the volume in voxels, X, Y, Z.
        annotated: its annotated slices.
        count: how many are wanted; fewer are returned where all others are annotated.
        evidence: what a model says; None before it says anything: then slices are evenly spaced.
    """
    if evidence is None:
        places = evenly_spaced(annotated, shape, count)
        return [Suggestion(place, None, "spread evenly over the volume") for place in places]
    return [
        Suggestion(place, score, f"the model is unsure there (score {score:.2f}), away from what is annotated")
        for place, score in best_slices(mean_entropy(evidence), annotated, count)
    ]


def mean_by_class(labels: NDArray[np.uint8], entropy: NDArray[np.uint8]) -> float:
    """Return how unsure a model is of a volume: the mean entropy, 0 … 1, of each predicted class, and their mean.

    Args:
        labels: (X, Y, Z), 0 background, 1 … K foreground.
        entropy: (X, Y, Z), 0 … 255.
    """
    counts = np.bincount(labels.ravel())
    sums = np.bincount(labels.ravel(), weights=entropy.ravel()) / 255
    return float(np.mean(sums[counts > 0] / counts[counts > 0]))


def mean_entropy(evidence: Evidence) -> Scores:
    """Score slices by the mean entropy of their unlabelled voxels, the mean over the predicted classes.

    Each class counts as much, so that the rare ones aren't drowned in background; a class of which there is hardly
    anything in a slice counts for less there.

    Returns:
        In 0 … 1.
    """
    unlabelled = evidence.annotation == UNLABELLED
    classes = range(len(evidence.scheme.classes))
    by_axis = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        area = evidence.labels.size / evidence.labels.shape[axis]
        scores = np.zeros(evidence.labels.shape[axis])
        for value in classes:
            counted = unlabelled & (evidence.labels == value)
            total = np.where(counted, evidence.entropy, 0).sum(axis=others, dtype=np.int64) / 255
            scores += total / (counted.sum(axis=others) + FEW * area)
        by_axis.append(scores / len(classes))
    return tuple(by_axis)


def away_from(slices: Sequence[AnnotatedSlice], shape: Sequence[int]) -> Scores:
    """Return for each slice how little it looks like the nearest one of some slices across the same axis, 0 … 1."""
    by_axis = []
    for axis, length in enumerate(shape):
        own = [place.index for place in slices if place.axis == axis]
        if not own:
            by_axis.append(np.ones(length))
            continue
        free = np.ones(length, dtype=bool)
        free[own] = False
        distance = distance_transform_edt(free)
        by_axis.append(1 - np.exp(-((distance / max(1.0, REACH * length)) ** 2) / 2))
    return tuple(by_axis)


def best_slices(scores: Scores, annotated: Sequence[AnnotatedSlice], count: int) -> list[tuple[AnnotatedSlice, float]]:
    """Choose slices of high scores, across all axes in turn, far from annotated ones and from each other.

    The axis of each is that with the highest score among those of which fewest were chosen so far.

    Args:
        scores: of all slices.
        annotated: slices that are annotated already.
        count: how many are wanted; fewer are returned where all others are annotated.

    Returns:
        Slices and their scores, best first.
    """
    shape = [len(of_axis) for of_axis in scores]
    chosen: list[tuple[AnnotatedSlice, float]] = []
    taken = list(annotated)
    while len(chosen) < count:
        away = away_from(taken, shape)
        weighted = [of_axis * far for of_axis, far in zip(scores, away, strict=True)]
        free = [np.ones(length, dtype=bool) for length in shape]
        for axis, index in taken:
            free[axis][index] = False
        # Of equal scores, the one farthest from what is taken.
        places = [
            (sum(place.axis == axis for place, _ in chosen), -weighted[axis][index], -away[axis][index], axis, index)
            for axis in range(len(shape))
            for index in np.flatnonzero(free[axis]).tolist()
        ]
        if not places:
            break
        *_, axis, index = min(places)
        chosen.append((AnnotatedSlice(axis, index), float(weighted[axis][index])))
        taken.append(chosen[-1][0])
    return sorted(chosen, key=lambda suggested: -suggested[1])


def evenly_spaced(annotated: Sequence[AnnotatedSlice], shape: Sequence[int], count: int) -> list[AnnotatedSlice]:
    """Choose slices without a model: across the axis with the fewest, in the middle of the widest gap."""
    taken = list(annotated)
    for _ in range(count):
        free = [axis for axis, length in enumerate(shape) if sum(p.axis == axis for p in taken) < length]
        if not free:
            break
        axis = min(free, key=lambda axis: sum(place.axis == axis for place in taken))
        taken.append(AnnotatedSlice(axis, _widest_gap([p.index for p in taken if p.axis == axis], shape[axis])))
    return taken[len(annotated) :]


def _widest_gap(indices: Sequence[int], length: int) -> int:
    """Return the middle of the widest gap between indices, or between one and the border."""
    if not indices:
        return length // 2
    ends = sorted(set(indices))
    # At the border the gap is half of one between two slices.
    gaps = [(2 * ends[0], ends[0] // 2), (2 * (length - 1 - ends[-1]), (ends[-1] + length) // 2)]
    gaps += [(after - before - 1, (before + after) // 2) for before, after in itertools.pairwise(ends)]
    return max(gaps)[1]


def expected_gain(history: Sequence[tuple[int, float]]) -> float | None:
    """Estimate how much IoU the next annotated slice brings, from what the ones before brought.

    The score is taken to near its limit as 1/n, n being the number of slices; fitted by least squares to the best score
    for each number.

    Args:
        history: annotated slices and validation IoU, 0 … 1, of the models published so far.

    Returns:
        At least 0; None where there are fewer than two numbers of slices to go by.
    """
    best: dict[int, float] = {}
    for slices, score in history:
        best[slices] = max(score, best.get(slices, 0.0))
    if len(best) < 2:
        return None
    counts = np.array(sorted(best))
    slope, _ = np.polyfit(1 / counts, [best[count] for count in counts], 1)
    latest = int(counts[-1])
    return max(0.0, -float(slope) * (1 / latest - 1 / (latest + 1)))
