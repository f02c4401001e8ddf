"""The statistics of an annotation: how much is labelled, of which class, and on which slices.

They are kept with each stored annotation, so that replies and checks need not read the voxels again.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from lib.core.labels import UNLABELLED, LabelScheme

from .paint import Paint
from .slices import AnnotatedSlice, Unpainted, detect

LITTLE_PAINT = 0.05
"""An annotated slice with less than this fraction painted may be a stray dab."""


class _AlwaysKept(TypedDict):
    labelled_voxels: int
    labelled_percent: float
    voxels: dict[str, int]
    annotated_slices: list[list[int]]


class AnnotationStatistics(_AlwaysKept, total=False):
    """The statistics of an annotation, as JSON values. Slices are lists of indices for each of the axes 0, 1, 2.

    Attributes:
        labelled_voxels: number of labelled voxels.
        labelled_percent: their share of all voxels, 0 … 100.
        voxels: number of labelled voxels by class name.
        annotated_slices: the annotated slices.
        whole_slices: the annotated slices that were painted as planes; earlier versions of this software lack them.
        mostly_unpainted: the annotated slices with less than ``LITTLE_PAINT`` painted; earlier versions lack them.
    """

    whole_slices: list[list[int]]
    mostly_unpainted: list[list[int]]


def annotation_statistics(annotation: NDArray[np.uint8], scheme: LabelScheme) -> AnnotationStatistics:
    """Describe an annotation (X, Y, Z) with values 0 … K+1."""
    detected = detect(Paint(annotation))
    labelled = annotation.size - int(detected.voxels[UNLABELLED])
    areas = [annotation.size // length for length in annotation.shape]
    little = [
        AnnotatedSlice(axis, index)
        for axis, index in detected.slices
        if detected.labelled[axis][index] < LITTLE_PAINT * areas[axis]
    ]
    return {
        "labelled_voxels": labelled,
        "labelled_percent": 100 * labelled / annotation.size,
        "voxels": {name: int(detected.voxels[value]) for value, name in enumerate(scheme.classes, start=1)},
        "annotated_slices": _by_axis(detected.slices),
        "whole_slices": _by_axis(detected.whole),
        "mostly_unpainted": _by_axis(little),
    }


def _by_axis(slices: Sequence[AnnotatedSlice]) -> list[list[int]]:
    return [[index for across, index in slices if across == axis] for axis in range(3)]


def filled_slices(statistics: AnnotationStatistics) -> list[list[int]]:
    """Return, for each axis, the slices whose unpainted voxels ``fill_unpainted`` would label as background."""
    slices: list[list[int]] = statistics.get("whole_slices", statistics["annotated_slices"])
    return slices


def learnable_classes(statistics: AnnotationStatistics, scheme: LabelScheme, unpainted: Unpainted) -> set[str]:
    """Return the names of the classes that the annotation has voxels of.

    With ``unpainted`` "background" this includes the background class if any slice was painted as a plane. Whether such
    a slice has unpainted voxels isn't in the statistics; training checks that.
    """
    learnable = {name for name in scheme.classes if statistics["voxels"].get(name)}
    if unpainted == "background" and any(filled_slices(statistics)):
        learnable.add(scheme.background)
    return learnable
