"""Ways to choose the slice that is annotated next, to be compared."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from lib.core.annotation.slices import AnnotatedSlice
from lib.core.annotation.suggestion import (
    NEAREST,
    Evidence,
    Scores,
    balance_classes,
    best_slices,
    evenly_spaced,
    nearness,
    newly_reached,
    suggest_slices,
    worth_by_class,
)
from lib.core.labels import UNLABELLED
from lib.core.network.batch_norm import Statistics
from lib.core.volumes.volume import Volume

from .features import SliceFeatures

FEW_IN_SLICE = 0.002
"""Part of a slice's voxels below which what is predicted there of a class counts for less."""

HARDLY = np.float32(1e-6)
"""What each voxel is worth on top, so that slices differ where nothing else tells them apart."""

FLIPS = ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2))
"""Axes along which a volume is flipped together; two flips turn it by 180° about the third axis."""

Generator = np.random.Generator
Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class Sight:
    """What a strategy sees before it chooses.

    Attributes:
        evidence: what the model says now.
        annotated: slices that are annotated, wholly.
        chosen: how many were chosen before.
        before: what the model said before it learnt from the last slice, as ``evidence.labels``; None at first.
        volume: the image.
        segment: segments an image by the model, by these statistics of batch normalisation or, None, by its own.
        features: what the model's lowest resolution step finds in each slice.
        generator: of randomness.
    """

    evidence: Evidence
    annotated: Sequence[AnnotatedSlice]
    chosen: int
    before: Labels | None
    volume: Volume
    segment: Callable[[Volume, Statistics | None], Labels]
    features: Callable[[], SliceFeatures]
    generator: Generator

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the volume."""
        return self.evidence.labels.shape


Choose = Callable[[Sight], AnnotatedSlice]


def _as_the_server(sight: Sight) -> AnnotatedSlice:
    return suggest_slices(sight.shape, sight.annotated, 1, sight.evidence)[0].place


def _by_class(sight: Sight) -> AnnotatedSlice:
    """As the server, but background counts wholly, too, sure or not."""
    return _sharing(np.ones(sight.shape, dtype=np.float32), sight)


def _by_entropy(sight: Sight) -> AnnotatedSlice:
    """As the server, but foreground counts only as far as the model is unsure of it, too."""
    return _sharing(np.maximum(sight.evidence.entropy, 1) / np.float32(255), sight)


def _sharing(worth: NDArray[np.float32], sight: Sight) -> AnnotatedSlice:
    """Choose where most newly is reached of what voxels are worth, each predicted class having the same share."""
    unlabelled = np.where(sight.evidence.annotation == UNLABELLED, worth, np.float32(0))
    return best_slices(balance_classes(unlabelled, sight.evidence), sight.annotated, 1)[0][0]


def _any_axis(sight: Sight) -> AnnotatedSlice:
    """As the server, but across whichever axis."""
    return _best(newly_reached(worth_by_class(sight.evidence), sight.annotated), sight)


def _where(contradicted: NDArray[np.float32] | NDArray[np.bool_], sight: Sight) -> AnnotatedSlice:
    """Choose where the model contradicts itself in most voxels that are newly reached."""
    unlabelled = sight.evidence.annotation == UNLABELLED
    return best_slices(np.where(unlabelled, contradicted + HARDLY, 0).astype(np.float32), sight.annotated, 1)[0][0]


def _by_flips(sight: Sight) -> AnnotatedSlice:
    """Where the model says something else of the volume mirrored along an axis, or turned by 180° about one."""
    labels = sight.evidence.labels
    others = []
    for axes in FLIPS:
        flipped = np.flip(sight.volume.array, [1 + axis for axis in axes]).copy()
        others.append(np.flip(sight.segment(replace(sight.volume, array=flipped), None), axes))
    return _where(np.sum([other != labels for other in others], axis=0, dtype=np.float32), sight)


def _by_statistics(sight: Sight) -> AnnotatedSlice:
    """Where averages of training and the volume's own statistics lead to unlike classes."""
    by_training, by_volume = sight.segment(sight.volume, "running"), sight.segment(sight.volume, "volume")
    return _where(by_training != by_volume, sight)


def _by_change(sight: Sight) -> AnnotatedSlice:
    """Where the last slice changed what the model says; at first as the server."""
    if sight.before is None:
        return _as_the_server(sight)
    return _where(sight.before != sight.evidence.labels, sight)


def _by_features(sight: Sight) -> AnnotatedSlice:
    """What is least like any annotated slice, across whichever axis, to the model's lowest resolution step."""
    features = sight.features()
    known = np.stack([features[place.axis][place.index] for place in sight.annotated])
    return _best(tuple(cdist(own, known).min(axis=1) for own in features), sight)


def _by_cost(sight: Sight) -> AnnotatedSlice:
    """Most for the time that painting takes: as long as the boundaries in the slice, and what the mean slice takes."""
    scores = newly_reached(worth_by_class(sight.evidence), sight.annotated)
    lengths = [boundary_lengths(sight.evidence.labels, axis) for axis in range(3)]
    # An empty slice takes its time, too.
    least = 1 + np.mean(np.concatenate(lengths))
    return _best(tuple(own / (least + length) for own, length in zip(scores, lengths, strict=True)), sight)


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
            scores += total / (counted.sum(axis=others) + FEW_IN_SLICE * area)
        by_axis.append(scores / len(classes))
    return tuple(by_axis)


def away_from_annotated(scores: Scores, annotated: Sequence[AnnotatedSlice]) -> Scores:
    """Lower scores of slices the more, the nearer they are to an annotated one across the same axis."""
    by_axis = []
    for axis, own in enumerate(scores):
        near = nearness(len(own))[[place.index for place in annotated if place.axis == axis]].max(axis=0, initial=0)
        by_axis.append(own * (1 - near / NEAREST))
    return tuple(by_axis)


def _by_mean_entropy(sight: Sight) -> AnnotatedSlice:
    return _best(away_from_annotated(mean_entropy(sight.evidence), sight.annotated), sight)


def with_noise(scores: Scores, beta: float, generator: Generator) -> Scores:
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


def _by_mean_entropy_with_noise(sight: Sight) -> AnnotatedSlice:
    scores = away_from_annotated(mean_entropy(sight.evidence), sight.annotated)
    return _best(with_noise(scores, certainty(sight.chosen), sight.generator), sight)


def _best(scores: Scores, sight: Sight) -> AnnotatedSlice:
    places = [AnnotatedSlice(axis, index) for axis, own in enumerate(scores) for index in range(len(own))]
    free = [place for place in places if place not in sight.annotated]
    return max(free, key=lambda place: float(scores[place.axis][place.index]))


def _alternating(sight: Sight) -> AnnotatedSlice:
    """In turn evenly spaced and as the server."""
    return (_as_the_server if sight.chosen % 2 else _evenly)(sight)


def _evenly(sight: Sight) -> AnnotatedSlice:
    return evenly_spaced(sight.annotated, sight.shape, 1)[0]


def _at_random(sight: Sight) -> AnnotatedSlice:
    return _drawn([np.full(length, 1 / length) for length in sight.shape], sight)


def _by_foreground(sight: Sight) -> AnnotatedSlice:
    """Draw an axis, then a slice in proportion to the foreground predicted in it."""
    weights = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        foreground = np.count_nonzero(sight.evidence.labels, axis=others) + 1e-3
        weights.append(foreground / foreground.sum())
    return _drawn(weights, sight)


def _drawn(weights: Sequence[NDArray[np.float64]], sight: Sight) -> AnnotatedSlice:
    places = [AnnotatedSlice(axis, index) for axis, own in enumerate(weights) for index in range(len(own))]
    chances = np.array([0.0 if place in sight.annotated else weights[place.axis][place.index] for place in places])
    return places[sight.generator.choice(len(places), p=chances / chances.sum())]


def boundary_lengths(labels: Labels, axis: int) -> NDArray[np.int64]:
    """Return for each slice across an axis how many pairs of neighbouring voxels in it are of unlike classes.

    Args:
        labels: (X, Y, Z), classes.
        axis: 0, 1 or 2.
    """
    planes = np.moveaxis(labels, axis, 0)
    lengths = np.zeros(len(planes), dtype=np.int64)
    for within in (1, 2):
        lengths += np.count_nonzero(np.diff(planes.astype(np.int16), axis=within), axis=(1, 2))
    return lengths


STRATEGIES: Mapping[str, Choose] = {
    "next_slice": _as_the_server,
    "any_axis": _any_axis,
    "by_class": _by_class,
    "by_entropy": _by_entropy,
    "by_flips": _by_flips,
    "by_statistics": _by_statistics,
    "by_change": _by_change,
    "by_features": _by_features,
    "by_cost": _by_cost,
    "mean_entropy": _by_mean_entropy,
    "with_noise": _by_mean_entropy_with_noise,
    "alternating": _alternating,
    "evenly_spaced": _evenly,
    "random": _at_random,
    "foreground_random": _by_foreground,
}

OURS = "next_slice"
BASELINES = ("evenly_spaced", "random", "foreground_random")
