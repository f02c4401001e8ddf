"""A simulated annotator: paints whole slices from the truth and exports them as 3D Slicer does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from lib.core.labels import UNLABELLED, LabelScheme
from lib.core.volumes.volume import Volume


def truth_as_annotation(truth: NDArray[np.integer[Any]], scheme: LabelScheme) -> NDArray[np.uint8]:
    """Turn a dense label map into an annotation in which every voxel is painted.

    Args:
        truth: (X, Y, Z), 0 background, 1 … K the foreground classes of ``scheme``.
        scheme: the label scheme.

    Returns:
        (X, Y, Z), values 1 … K+1.
    """
    return np.where(truth == 0, scheme.background_value, truth).astype(np.uint8)


def choose_slices(truth: NDArray[np.integer[Any]], axis: int, count: int, rng: np.random.Generator) -> list[int]:
    """Choose slices to annotate along one axis, as uniformly as possible over the foreground (section 4).

    The extent of the foreground is divided into ``count`` equal parts. From the middle half of each part, take the
    slice that shows the most classes, as a person would; among equals, the one nearest to a random position.

    Args:
        truth: (X, Y, Z), 0 background, 1 … K foreground.
        axis: 0, 1 or 2.
        count: number of slices; fewer are chosen if the foreground is thinner.
        rng: source of the random positions.

    Returns:
        Indices along ``axis``, ascending, without duplicates; if there is no foreground, from the whole axis.
    """
    others = tuple(other for other in range(truth.ndim) if other != axis)
    classes_shown = np.zeros(truth.shape[axis], int)
    for value in range(1, int(truth.max()) + 1):
        classes_shown += (truth == value).any(axis=others)
    first, last = 0, truth.shape[axis] - 1
    if classes_shown.any():
        first, last = np.flatnonzero(classes_shown)[[0, -1]]
    part = (last + 1 - first) / count
    chosen: set[int] = set()
    for number in range(count):
        wanted = first + part * (number + rng.uniform(0.25, 0.75))
        low, high = first + part * (number + 0.25), first + part * (number + 0.75)
        candidates = [index for index in range(first, last + 1) if low <= index + 0.5 <= high] or [int(wanted)]
        most = max(classes_shown[index] for index in candidates)
        showing = [index for index in candidates if classes_shown[index] == most]
        chosen.add(min(showing, key=lambda index: abs(index + 0.5 - wanted)))
    return sorted(chosen)


def paint_slices(
    truth: NDArray[np.integer[Any]], scheme: LabelScheme, per_axis: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Annotate ``per_axis`` whole slices along each axis, including their background.

    Args:
        truth: (X, Y, Z), 0 background, 1 … K foreground.
        scheme: the label scheme.
        per_axis: number of annotated slices per axis.
        rng: source of the slices' random positions.

    Returns:
        The annotation (X, Y, Z): 0 unlabelled, 1 … K+1.
    """
    dense = truth_as_annotation(truth, scheme)
    annotation = np.full(truth.shape, UNLABELLED, np.uint8)
    for axis in range(3):
        for index in choose_slices(truth, axis, per_axis, rng):
            plane = tuple(index if a == axis else slice(None) for a in range(3))
            annotation[plane] = dense[plane]
    return annotation


def export_like_slicer(
    path: Path, annotation: NDArray[np.uint8], volume: Volume, scheme: LabelScheme, segments: Sequence[str]
) -> dict[str, Any]:
    """Write a label map and return its parameters, as "Submit Label" of 3D Slicer sends them.

    The map is int16; a voxel's value is the position of its segment in the scene. All segments are exported, even empty
    ones. The grid is the image's as Slicer reads it, which is wrong for 4-D NIfTI files.

    Args:
        path: file to write, ``.nii.gz``.
        annotation: (X, Y, Z), 0 unlabelled, 1 … K+1.
        volume: the annotated image.
        scheme: the label scheme of ``annotation``.
        segments: names of the segments in the scene (``labels`` of ``/info``), including all classes.

    Returns:
        The ``params`` that go with the file.
    """
    values = np.zeros(len(scheme.classes) + 1, np.int16)
    for value, name in enumerate(scheme.classes, start=1):
        values[value] = segments.index(name) + 1
    affine = volume.affine if volume.slicer_affine is None else volume.slicer_affine
    nibabel.save(nibabel.Nifti1Image(values[annotation], affine), path)
    return {"label_info": [{"name": name, "idx": number} for number, name in enumerate(segments, start=1)]}
