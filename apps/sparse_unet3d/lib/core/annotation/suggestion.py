"""Which slices are worth annotating next: those near most objects and doubt that no annotated slice is near."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lib.core.labels import UNLABELLED, LabelScheme

from .slices import AnnotatedSlice

REACH = 0.05
"""Part of an axis within which a slice tells what its neighbours look like; at least one slice."""

FEW = 0.0002
"""Part of a volume's voxels; a predicted class that hardly has so many counts for less."""

NEAREST = 255
"""Nearness of a slice to itself."""

STRIP = 8
"""Voxels; a slice of which a side is shorter shows hardly any shape."""

PLANES = 16
"""Of a volume, looked at together."""

MOST_VOXELS = 2**22
"""Voxels that are looked at; of a larger volume some in between are left out."""

DIGITS = 6
"""Of scores: slices that differ in the next one are as good."""

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
        score: 0 … 1, its part of all that is worth a look; None where it was chosen without a model.
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
        annotated: its annotated slices, none of which is suggested.
        count: how many are wanted; fewer are returned where fewer are left.
        evidence: what a model says; None before it says anything: then slices are evenly spaced.

    Returns:
        Those that newly reach most; where nothing is left to reach, but slices are painted in part only, those in which
        most is unpainted.
    """
    if evidence is None:
        places = evenly_spaced(annotated, shape, count)
        return [Suggestion(place, None, "spread evenly over the volume") for place in places]
    steps = _steps(shape)
    if max(steps) > 1:
        return _suggest_coarsely(annotated, count, evidence, steps)
    worth = worth_by_class(evidence)
    # Where not all classes are predicted, as by a young model, the sum is less than 1.
    total = float(worth.sum(dtype=np.float64))
    best = best_slices(worth, annotated, count)
    fullest = fullest_slices(worth, [*annotated, *(place for place, _ in best)], count - len(best))
    return [
        Suggestion(place, score / total, f"{where} {score / total:.1%} of all objects and doubt")
        for where, found in (("near it, and near no annotated slice, is", best), ("unpainted in it is", fullest))
        for place, score in found
    ]


def _steps(shape: Sequence[int]) -> list[int]:
    """Return every how many voxels to look at along each axis, so that they are ``MOST_VOXELS`` at most."""
    steps = [1, 1, 1]
    while math.prod(-(-n // step) for n, step in zip(shape, steps, strict=True)) > MOST_VOXELS:
        longest = max(range(3), key=lambda axis: shape[axis] / steps[axis])
        steps[longest] += 1
    return steps


def _suggest_coarsely(
    annotated: Sequence[AnnotatedSlice], count: int, evidence: Evidence, steps: Sequence[int]
) -> list[Suggestion]:
    """Suggest slices of a large volume by the voxels in the middle of blocks, whose sides are the steps."""
    middles = tuple(slice((step - 1) // 2, None, step) for step in steps)
    annotation, labels, entropy = (
        np.ascontiguousarray(voxels[middles]) for voxels in (evidence.annotation, evidence.labels, evidence.entropy)
    )
    shape = annotation.shape
    near = {AnnotatedSlice(axis, min(index // steps[axis], shape[axis] - 1)) for axis, index in annotated}
    coarse = suggest_slices(shape, sorted(near), count, Evidence(evidence.scheme, annotation, labels, entropy))
    return [
        replace(one, place=AnnotatedSlice(axis, index * steps[axis] + (steps[axis] - 1) // 2))
        for one in coarse
        for axis, index in [one.place]
    ]


def mean_by_class(labels: NDArray[np.uint8], entropy: NDArray[np.uint8]) -> float:
    """Return how unsure a model is of a volume: the mean entropy, 0 … 1, of each predicted class, and their mean.

    A class of which there is hardly anything counts for less: a stray voxel isn't to decide.

    Args:
        labels: (X, Y, Z), 0 background, 1 … K foreground.
        entropy: (X, Y, Z), 0 … 255.
    """
    counts = np.bincount(labels.ravel())
    sums = np.bincount(labels.ravel(), weights=entropy.ravel()) / 255
    return float(np.mean(sums[counts > 0] / (counts[counts > 0] + FEW * labels.size)))


def worth_by_class(evidence: Evidence) -> NDArray[np.float32]:
    """Return how much each voxel is worth to be looked at.

    Foreground counts wholly, background as far as the model is unsure of it. Each predicted class has the same share,
    so that the rare ones aren't drowned in background.

    Returns:
        (X, Y, Z), 0 where it is labelled; the sum is 1, less where hardly anything is predicted of a class.
    """
    # A model may be sure and wrong, so no background is worth nothing.
    worth = np.where(evidence.labels == 0, np.maximum(evidence.entropy, 1) / np.float32(255), np.float32(1))
    worth[evidence.annotation != UNLABELLED] = 0
    return shared(worth, evidence)


def shared(worth: NDArray[np.float32], evidence: Evidence) -> NDArray[np.float32]:
    """Scale what voxels are worth so that it adds up to the same for each predicted class, see ``worth_by_class``."""
    result = np.zeros_like(worth)
    classes = len(evidence.scheme.classes)
    for value in range(classes):
        of_class = evidence.labels == value
        total = worth.sum(where=of_class, dtype=np.float64) + FEW * worth.size
        np.divide(worth, classes * total, out=result, where=of_class)
    return result


def nearness(length: int) -> NDArray[np.uint8]:
    """Return how near slices across an axis are to each other: a Gaussian of their distance, of 1 reach.

    Returns:
        (length, length), symmetric, from ``NEAREST`` down to 0.
    """
    indices = np.arange(length)
    reaches = (indices - indices[:, np.newaxis]) / max(1.0, REACH * length)
    near: NDArray[np.uint8] = np.rint(NEAREST * np.exp(-(reaches**2) / 2)).astype(np.uint8)
    return near


def newly_reached(worth: NDArray[np.float32], annotated: Iterable[AnnotatedSlice]) -> Scores:
    """Score slices by what is worth a look near them, and near no annotated slice, across whichever axis.

    A voxel counts by how much nearer it is to the slice than to the nearest annotated one (facility location: each is
    served by the nearest of all there are).

    Args:
        worth: (X, Y, Z), at least 0.
        annotated: the annotated slices.
    """
    between = [nearness(length) for length in worth.shape]
    reached = [np.zeros(length, dtype=np.uint8) for length in worth.shape]
    for place in annotated:
        np.maximum(reached[place.axis], between[place.axis][place.index], out=reached[place.axis])
    values = np.arange(NEAREST + 1)
    # Summed first over voxels that are alike, in their slice and in their nearness to annotated slices, so that each
    # slice takes as many multiplications as there are slices, not voxels; a few planes at a time, for less memory.
    alike = [np.zeros(length * len(values)) for length in worth.shape]
    for start in range(0, worth.shape[0], PLANES):
        planes = worth[start : start + PLANES]
        indices = np.ogrid[start : start + len(planes), : worth.shape[1], : worth.shape[2]]
        x, y, z = (of_axis[index] for of_axis, index in zip(reached, indices, strict=True))
        nearest = np.maximum(np.maximum(x, y), z)
        for index, sums in zip(indices, alike, strict=True):
            kinds = len(values) * index + nearest
            sums += np.bincount(kinds.ravel(), planes.ravel(), minlength=len(sums))
    gained = np.maximum(0, values - values[:, np.newaxis]) / NEAREST
    return tuple(
        (sums.reshape(len(of_axis), -1) @ gained)[np.arange(len(of_axis)), of_axis].sum(axis=1)
        for sums, of_axis in zip(alike, between, strict=True)
    )


def best_slices(
    worth: NDArray[np.float32], annotated: Sequence[AnnotatedSlice], count: int
) -> list[tuple[AnnotatedSlice, float]]:
    """Choose slices that newly reach most, each counting as annotated for the next, across all axes in turn.

    The axis of each is that of which fewest were chosen so far, then that with the fewest annotated slices, then that
    with the highest score; strips (see ``STRIP``) come after all others. By scores alone nearly all would lie across
    one axis, whichever it is, as parallel slices reach least of what is reached already; that was no better
    (``experiments/README.md``). Of slices that are as good, the one nearest to the middle.

    Args:
        worth: (X, Y, Z), at least 0.
        annotated: the annotated slices.
        count: how many are wanted; fewer are returned where no slice newly reaches anything.

    Returns:
        Slices and their scores, above 0, as they were chosen.
    """
    chosen: dict[AnnotatedSlice, float] = {}
    places = [AnnotatedSlice(axis, index) for axis, length in enumerate(worth.shape) for index in range(length)]
    taken, there = set(annotated), Counter(place.axis for place in annotated)
    free = [place for place in places if place not in taken]
    while len(chosen) < count:
        scores = newly_reached(worth, [*annotated, *chosen])
        free = [place for place in free if scores[place.axis][place.index] > 0]
        if not free:
            break
        times = Counter(place.axis for place in chosen)
        (*_, best) = min(
            (
                _is_strip(place.axis, worth.shape),
                times[place.axis],
                there[place.axis],
                -round(scores[place.axis][place.index], DIGITS),
                abs(2 * place.index + 1 - worth.shape[place.axis]),
                place,
            )
            for place in free
        )
        chosen[best] = float(scores[best.axis][best.index])
        free.remove(best)
    return list(chosen.items())


def fullest_slices(
    worth: NDArray[np.float32], annotated: Sequence[AnnotatedSlice], count: int
) -> list[tuple[AnnotatedSlice, float]]:
    """Choose slices in which, themselves, most is worth a look, each counting as annotated for the next; strips last.

    Args and returns as of ``best_slices``.
    """
    left, taken = worth.copy(), set(annotated)
    chosen: list[tuple[AnnotatedSlice, float]] = []
    while len(chosen) < count:
        sums = [
            left.sum(axis=tuple(other for other in range(3) if other != axis), dtype=np.float64) for axis in range(3)
        ]
        free = [
            (-_is_strip(axis, worth.shape), float(score), AnnotatedSlice(axis, index))
            for axis, of_axis in enumerate(sums)
            for index, score in enumerate(of_axis)
            if score > 0 and (axis, index) not in taken
        ]
        if not free:
            break
        _, score, best = max(free)
        chosen.append((best, score))
        taken.add(best)
        np.moveaxis(left, best.axis, 0)[best.index] = 0
    return chosen


def evenly_spaced(annotated: Sequence[AnnotatedSlice], shape: Sequence[int], count: int) -> list[AnnotatedSlice]:
    """Choose slices without a model: across the axis with the fewest, in the middle of the widest gap; strips last."""
    taken = list(annotated)
    for _ in range(count):
        free = [axis for axis, length in enumerate(shape) if sum(p.axis == axis for p in taken) < length]
        if not free:
            break
        axis = min(free, key=lambda axis: (_is_strip(axis, shape), sum(place.axis == axis for place in taken)))
        taken.append(AnnotatedSlice(axis, _widest_gap([p.index for p in taken if p.axis == axis], shape[axis])))
    return taken[len(annotated) :]


def _is_strip(axis: int, shape: Sequence[int]) -> bool:
    """Tell whether slices across an axis of a volume are strips, see ``STRIP``."""
    return min(length for other, length in enumerate(shape) if other != axis) < STRIP


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
    with at most so many slices, for each number. So a training that has just begun doesn't look like one that failed.

    Args:
        history: annotated slices and validation IoU, 0 … 1, of the models so far, the latest last.

    Returns:
        At least 0; None where there are fewer than two numbers of slices to go by.
    """
    best: dict[int, float] = {}
    for slices, score in history:
        best[slices] = max(score, best.get(slices, 0.0))
    if len(best) < 2:
        return None
    counts = np.array(sorted(best))
    slope, _ = np.polyfit(1 / counts, np.maximum.accumulate([best[count] for count in counts]), 1)
    latest, _ = history[-1]
    return max(0.0, -float(slope) * (1 / latest - 1 / (latest + 1)))
