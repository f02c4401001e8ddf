"""Compares predicted label maps with true ones: overlap, distances between surfaces, and numbers of voxels."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from typing_extensions import TypedDict

from .errors import InputError
from .volumes.formats import split_ending
from .volumes.grids import onto_grid
from .volumes.label_maps import is_map, maps_in, read_exported
from .volumes.volume import Geometry, LabelMap, spacing_of

Labels = NDArray[np.integer[Any]]
"""(X, Y, Z) class numbers; 0 is the background."""


class ClassScores(TypedDict):
    """How well a class is predicted. None where that can't be said.

    Attributes:
        iou: Intersection over Union, 0 … 1; None if the class is neither predicted nor in the label.
        dice: twice the common voxels / (predicted + labelled voxels), 0 … 1; None as for ``iou``.
        assd_mm: average symmetric surface distance: mean of the distances in mm from each voxel on either surface to
            the other surface. None if one of the two has no voxel, or ignored voxels cut a surface.
        hd95_mm: 95th percentile of these distances in mm, the larger of both directions; None as for ``assd_mm``.
        predicted_voxels, labelled_voxels, common_voxels: numbers of voxels that aren't ignored.
    """

    iou: float | None
    dice: float | None
    assd_mm: float | None
    hd95_mm: float | None
    predicted_voxels: float | None
    labelled_voxels: float | None
    common_voxels: float | None


ABSENT = ClassScores(
    iou=None, dice=None, assd_mm=None, hd95_mm=None, predicted_voxels=0, labelled_voxels=0, common_voxels=0
)
"""The scores of a class that is neither predicted nor in the label."""


def pair_files(predictions: Path, labels: Path) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """Find the label of each prediction.

    Args:
        predictions: a label map, or a folder of label maps in any known format.
        labels: a label map, or a folder of label maps with the names of the predictions, whatever their endings.

    Returns:
        Prediction and label by name; and a sentence for each name without a prediction or with several files.

    Raises:
        InputError: no such file or folder, a file and a folder, or no name in common.
    """
    for path in (predictions, labels):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; give a label map, or a folder of label maps")
    if is_map(predictions) != is_map(labels):
        raise InputError(f"{predictions}, {labels}: give two label maps, or two folders of label maps")
    if is_map(predictions):
        return {split_ending(predictions.name)[0]: (predictions, labels)}, []
    predicted, true = maps_in(predictions), maps_in(labels)
    faults = [
        f"{name}: {' and '.join(map(str, files))} have the same name; keep one of them"
        for of in (predicted, true)
        for name, files in of.items()
        if len(files) > 1
    ]
    faults += [
        f"{files[0]}: no prediction of this name in {predictions}" for n, files in true.items() if n not in predicted
    ]
    names = predicted.keys() & true.keys()
    if not names:
        raise InputError(f"{predictions}: no label map has the name of one in {labels}; give both the same names")
    pairs = {
        name: (predicted[name][0], true[name][0])
        for name in sorted(names)
        if len(predicted[name]) == len(true[name]) == 1
    }
    return pairs, faults


def evaluate_files(
    prediction: Path, label: Path, ignore: int | None = None, classes: Sequence[str] = ()
) -> dict[str, ClassScores]:
    """Score a predicted label map; the label is brought onto its grid.

    Args:
        prediction: label map of values 0 background, 1 … K.
        label: the true label map. With ``ignore`` 0, as in annotations of this software, its value K+1 is background.
        ignore: voxels with this value in the label don't count.
        classes: names of the K classes; without any, the classes are the values that occur, named by their numbers.

    Returns:
        Scores by class. Without ``classes``, those that don't occur are missing.

    Raises:
        InputError: a file can't be read, has values that are no class, or the two lie on different grids.
    """
    predicted, true = read_exported(prediction), read_exported(label)
    x, y, z = predicted.array.shape
    grid = Geometry((x, y, z), predicted.affine, 1, predicted.array.dtype, name=predicted.name)
    values = onto_grid(true, grid)
    allowed = {*range(len(classes) + 1), ignore, *([len(classes) + 1] if ignore == 0 else [])}
    if classes:
        _check_values(predicted, set(range(len(classes) + 1)), classes)
        _check_values(true, allowed, classes)
    scores = evaluate(predicted.array, values, spacing_of(predicted.affine), ignore, range(1, len(classes) + 1))
    return {classes[value - 1] if classes else str(value): of for value, of in scores.items()}


def _check_values(of: LabelMap, allowed: set[int | None], classes: Sequence[str]) -> None:
    strange = [int(value) for value in np.unique(of.array) if int(value) not in allowed]
    if strange:
        raise InputError(
            f"{of.name}: has voxels of value {strange[0]}, but there are {len(classes)} classes "
            f"({', '.join(classes)}); name all classes, or ignore a value of the labels"
        )


def evaluate(
    prediction: Labels,
    label: Labels,
    spacing: Sequence[float],
    ignore: int | None = None,
    classes: Iterable[int] = (),
) -> dict[int, ClassScores]:
    """Score a prediction against the truth on the same grid. For files, there is ``evaluate_files``.

    Args:
        prediction: (X, Y, Z), 0 background, 1 … K foreground.
        label: (X, Y, Z), the same for the truth.
        spacing: size of a voxel along X, Y, Z in mm.
        ignore: voxels with this value in the label count neither as predicted nor as labelled.
        classes: the classes to score; none: all that occur.

    Returns:
        Scores by class number: overlaps 0 … 1, distances in mm, numbers of voxels.

    Raises:
        InputError: prediction and label have different shapes.

    Examples:
        Score the prediction that the example of ``Segmenter.segment`` made:

        >>> from lib.core.evaluation import evaluate
        >>> from lib.core.volumes.reading import read_label_map
        >>> from lib.core.volumes.volume import spacing_of
        >>> prediction, truth = read_label_map("prediction.nii.gz"), read_label_map("truth.nii.gz")
        >>> scores = evaluate(prediction.array, truth.array, spacing_of(truth.affine))
        >>> scores[1]["iou"] > 0.8, scores[1]["labelled_voxels"]
        (True, 3551)
    """
    if prediction.shape != label.shape:
        raise InputError(
            f"evaluation: the prediction has shape {prediction.shape}, the label {label.shape}; expected the same; "
            "bring both onto one grid"
        )
    known = np.ones(label.shape, bool) if ignore is None else label != ignore
    beside_ignored = binary_dilation(~known) if ignore is not None else ~known
    occurring = {int(value) for part in (prediction, label) for value in np.unique(part[known])} - {0}
    scores: dict[int, ClassScores] = {}
    for value in sorted(classes) or sorted(occurring):
        if value not in occurring:
            scores[value] = ABSENT
            continue
        predicted, labelled = (prediction == value) & known, (label == value) & known
        n, m, both = (int(np.count_nonzero(part)) for part in (predicted, labelled, predicted & labelled))
        # MONAI gives inf or nan if one of the two is empty.
        is_cut = bool((beside_ignored & (predicted | labelled)).any())
        assd, hd95 = (None, None) if is_cut or not n or not m else _surface_distances(predicted, labelled, spacing)
        scores[value] = ClassScores(
            iou=both / (n + m - both),
            dice=2 * both / (n + m),
            assd_mm=assd,
            hd95_mm=hd95,
            predicted_voxels=n,
            labelled_voxels=m,
            common_voxels=both,
        )
    return scores


def _surface_distances(
    predicted: NDArray[np.bool_], labelled: NDArray[np.bool_], spacing: Sequence[float]
) -> tuple[float, float]:
    """Return the average symmetric surface distance and the 95 % Hausdorff distance in mm of two sets of voxels.

    The surface of a set are its voxels that have a face in common with a voxel outside of it. Voxels at the border of
    the image count as surface.
    """
    # Imported here, because MONAI takes seconds to import, and few processes need it.
    from monai.metrics.utils import get_edge_surface_distance

    # MONAI's functions for the two distances would each search for the nearest voxels, and fail for large surfaces.
    planes = [np.flatnonzero((predicted | labelled).any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    box = tuple(slice(int(of[0]), int(of[-1]) + 1) for of in planes)
    one, other = (torch.from_numpy(np.ascontiguousarray(part[box])) for part in (predicted, labelled))
    with warnings.catch_warnings():
        # MONAI calls a function of its own in a way that it has deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        _, distances, _ = get_edge_surface_distance(one, other, spacing=tuple(spacing), symmetric=True)
    there, back = (np.asarray(of, dtype=np.float64) for of in distances)
    return float(np.concatenate([there, back]).mean()), float(max(np.percentile(of, 95) for of in (there, back)))


def mean_scores(volumes: Iterable[Mapping[str, ClassScores]]) -> dict[str, ClassScores]:
    """Return, for each class, the means over the volumes in which they are known; None if there is no such volume."""
    volumes = list(volumes)
    means: dict[str, ClassScores] = {}
    for name in dict.fromkeys(name for scores in volumes for name in scores):
        of_class = [dict(scores[name]) for scores in volumes if name in scores]
        means[name] = cast(ClassScores, {key: _mean(scores[key] for scores in of_class) for key in ABSENT})
    return means


def _mean(values: Iterable[object]) -> float | None:
    known = [value for value in values if isinstance(value, (int, float))]
    return sum(known) / len(known) if known else None
