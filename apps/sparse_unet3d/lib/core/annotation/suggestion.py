"""Suggest slices to annotate next: rank them by the foreground and uncertainty that they would newly cover."""

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
"""Standard deviation of the Gaussian in ``nearness``, as a fraction of the axis; at least one slice."""

PRIOR = 0.0002
"""Prior added to each class total, as a fraction of the volume's voxels, so that stray voxels can't dominate."""

NEAREST = 255
"""Nearness of a slice to itself."""

STRIP = 8
"""Side in voxels below which a slice is a strip, too narrow to show shapes."""

PLANES = 16
"""Planes that are processed together, to bound memory."""

MOST_VOXELS = 2**22
"""Most voxels that are considered; a larger volume is subsampled."""

DIGITS = 6
"""Decimals to which scores are compared; smaller differences are ties."""

Scores = tuple[NDArray[np.float64], ...]
"""For each axis, the score of each slice across it, at least 0."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known about a volume. All maps are (X, Y, Z).

    Attributes:
        scheme: the label scheme.
        annotation: 0 unlabelled, 1 … K+1.
        labels: the model's latest prediction, 0 background, 1 … K foreground.
        entropy: the prediction's entropy, 0 (certain) … 255 (uniform).
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
        score: fraction of the volume's worth that it newly covers, 0 … 1; None if it was chosen without a model.
        why: the reason, for a person.
    """

    place: AnnotatedSlice
    score: float | None
    why: str


def suggest_slices(
    shape: Sequence[int], annotated: Sequence[AnnotatedSlice], count: int, evidence: Evidence | None = None
) -> list[Suggestion]:
    """Suggest slices to annotate next, spread over the volume.

    Args:
        shape: (X, Y, Z) of the volume.
        annotated: its annotated slices (``annotated_slices`` detects them); none of them is suggested.
        count: number of slices wanted; fewer are returned if fewer are left.
        evidence: the model's prediction for this volume. Without one (None), slices are spaced evenly.

    Returns:
        The slices that newly cover most (``best_slices``). If these are too few, the slices follow whose unlabelled
        voxels are worth most (``fullest_slices``). Axes are 0 to 2, indices count from 0.

    Examples:
        Without a model, for a volume of which one slice across Z is painted:

        >>> from lib.core.annotation.slices import AnnotatedSlice, annotated_slices
        >>> from lib.core.annotation.suggestion import Evidence, suggest_slices
        >>> [tuple(one.place) for one in suggest_slices((40, 40, 24), [AnnotatedSlice(2, 12)], 2)]
        [(0, 20), (1, 20)]

        By the model that the example of ``train`` made:

        >>> from pathlib import Path
        >>> import numpy as np
        >>> from lib.core.inference.segmenter import Segmenter
        >>> from lib.core.model.model import Model
        >>> from lib.core.volumes.reading import read_label_map, read_volume
        >>> volume, model = read_volume("cell.nii.gz"), Model.load(Path("models/model.pt"))
        >>> painted = read_label_map("painted.nii.gz").array.astype(np.uint8)
        >>> labels, entropy = Segmenter.of(model).segment_with_entropy(volume)
        >>> evidence = Evidence(model.plan.scheme, painted, labels, entropy)
        >>> suggested = suggest_slices(volume.shape, annotated_slices(painted), 3, evidence)
        >>> [one.why for one in suggested]  # doctest: +ELLIPSIS
        ['newly covers ...% of all objects and uncertainty', ...]
    """
    if evidence is None:
        places = evenly_spaced(annotated, shape, count)
        return [Suggestion(place, None, "spread evenly over the volume") for place in places]
    steps = _steps(shape)
    if max(steps) > 1:
        return _suggest_coarsely(annotated, count, evidence, steps)
    worth = worth_by_class(evidence)
    # The sum is less than 1 if a class isn't predicted, as by a model early in training.
    total = float(worth.sum(dtype=np.float64))
    best = best_slices(worth, annotated, count)
    fullest = fullest_slices(worth, [*annotated, *(place for place, _ in best)], count - len(best))
    return [
        Suggestion(place, score / total, f"{what} {score / total:.1%} of all objects and uncertainty")
        for what, found in (("newly covers", best), ("its unpainted voxels hold", fullest))
        for place, score in found
    ]


def _steps(shape: Sequence[int]) -> list[int]:
    """Return the step along each axis that subsamples a volume to at most ``MOST_VOXELS`` voxels."""
    steps = [1, 1, 1]
    while math.prod(-(-n // step) for n, step in zip(shape, steps, strict=True)) > MOST_VOXELS:
        longest = max(range(3), key=lambda axis: shape[axis] / steps[axis])
        steps[longest] += 1
    return steps


def _suggest_coarsely(
    annotated: Sequence[AnnotatedSlice], count: int, evidence: Evidence, steps: Sequence[int]
) -> list[Suggestion]:
    """Suggest slices of a large volume, from the middle voxel of each block whose sides are ``steps``."""
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
    """Return the uncertainty of a prediction, 0 … 1: the mean over the predicted classes of each class's mean entropy.

    ``PRIOR`` reduces the weight of classes with hardly any voxels.

    Args:
        labels: (X, Y, Z), 0 background, 1 … K foreground.
        entropy: (X, Y, Z), 0 … 255.
    """
    counts = np.bincount(labels.ravel())
    sums = np.bincount(labels.ravel(), weights=entropy.ravel()) / 255
    return float(np.mean(sums[counts > 0] / (counts[counts > 0] + PRIOR * labels.size)))


def worth_by_class(evidence: Evidence) -> NDArray[np.float32]:
    """Return how much each voxel is worth annotating.

    A predicted foreground voxel is worth 1, a background voxel its entropy. Each predicted class is then scaled to the
    same total, so that rare classes count as much as the background.

    Returns:
        (X, Y, Z), 0 where labelled. The sum is 1, or less if a class has few voxels or none.
    """
    # A model may be certain and wrong, so background is worth at least a little.
    worth = np.where(evidence.labels == 0, np.maximum(evidence.entropy, 1) / np.float32(255), np.float32(1))
    worth[evidence.annotation != UNLABELLED] = 0
    return balance_classes(worth, evidence)


def balance_classes(worth: NDArray[np.float32], evidence: Evidence) -> NDArray[np.float32]:
    """Scale the worth of voxels (X, Y, Z) to the same total for each predicted class, see ``worth_by_class``."""
    result = np.zeros_like(worth)
    classes = len(evidence.scheme.classes)
    for value in range(classes):
        of_class = evidence.labels == value
        total = worth.sum(where=of_class, dtype=np.float64) + PRIOR * worth.size
        np.divide(worth, classes * total, out=result, where=of_class)
    return result


def nearness(length: int) -> NDArray[np.uint8]:
    """Return how near slices across an axis are to each other: a Gaussian of their distance (``REACH``).

    Returns:
        (length, length), symmetric, from ``NEAREST`` down to 0.
    """
    indices = np.arange(length)
    reaches = (indices - indices[:, np.newaxis]) / max(1.0, REACH * length)
    near: NDArray[np.uint8] = np.rint(NEAREST * np.exp(-(reaches**2) / 2)).astype(np.uint8)
    return near


def newly_reached(worth: NDArray[np.float32], annotated: Iterable[AnnotatedSlice]) -> Scores:
    """Score slices by the worth that each would newly cover.

    A voxel contributes its worth times the gain in nearness: how much nearer it is to the slice than to the nearest
    annotated slice across any axis (facility location).

    Args:
        worth: (X, Y, Z), at least 0.
        annotated: the annotated slices.
    """
    between = [nearness(length) for length in worth.shape]
    reached = [np.zeros(length, dtype=np.uint8) for length in worth.shape]
    for place in annotated:
        np.maximum(reached[place.axis], between[place.axis][place.index], out=reached[place.axis])
    values = np.arange(NEAREST + 1)
    # Voxels with the same index and the same nearness to annotated slices gain alike. Summing their worth first leaves
    # a small matrix product for each axis.
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
    """Choose the slices that newly cover most, greedily: each counts as annotated for the next.

    The axes take turns: first the axis with the fewest slices chosen so far, then with the fewest annotated slices,
    then with the highest score. Strips (``STRIP``) come last. Of equal scores, the slice nearest to the middle wins.
    Scores alone would put nearly all slices across one axis, since parallel slices overlap least; that was no better
    (``experiments/README.md``).

    Args:
        worth: (X, Y, Z), at least 0.
        annotated: the annotated slices.
        count: number of slices wanted; fewer are returned if no other slice covers anything new.

    Returns:
        Slices and their scores, above 0, in the order of choice.
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
    """Choose the slices that contain most worth themselves, greedily; strips come last.

    Arguments and result are those of ``best_slices``.
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
    """Choose slices without a model: each across the axis with the fewest, in its widest gap; strips come last."""
    taken = list(annotated)
    for _ in range(count):
        free = [axis for axis, length in enumerate(shape) if sum(p.axis == axis for p in taken) < length]
        if not free:
            break
        axis = min(free, key=lambda axis: (_is_strip(axis, shape), sum(place.axis == axis for place in taken)))
        taken.append(AnnotatedSlice(axis, _widest_gap([p.index for p in taken if p.axis == axis], shape[axis])))
    return taken[len(annotated) :]


def _is_strip(axis: int, shape: Sequence[int]) -> bool:
    """Return whether slices across an axis are strips, see ``STRIP``."""
    return min(length for other, length in enumerate(shape) if other != axis) < STRIP


def _widest_gap(indices: Sequence[int], length: int) -> int:
    """Return the middle of the widest gap between indices, or between an index and the border."""
    if not indices:
        return length // 2
    ends = sorted(set(indices))
    # A gap at the border counts twice: it has an annotated slice on one side only.
    gaps = [(2 * ends[0], ends[0] // 2), (2 * (length - 1 - ends[-1]), (ends[-1] + length) // 2)]
    gaps += [(after - before - 1, (before + after) // 2) for before, after in itertools.pairwise(ends)]
    return max(gaps)[1]
