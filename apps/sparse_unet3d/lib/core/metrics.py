"""Intersection over Union on labelled voxels (section 4.1)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .labels import UNLABELLED, LabelScheme


def confusion(prediction: NDArray[np.uint8], annotation: NDArray[np.uint8], scheme: LabelScheme) -> NDArray[np.int64]:
    """Count labelled voxels by true and by predicted class.

    Args:
        prediction: values 0 … K, any shape.
        annotation: values 0 … K+1, same shape; unlabelled voxels don't count.
        scheme: the label scheme that both follow.

    Returns:
        (K+1, K+1) counts: rows are true classes, columns predicted classes, 0 is background. Add the counts of several
        volumes for their common IoU.
    """
    classes = len(scheme.classes)
    labelled = annotation != UNLABELLED
    joint = scheme.targets(annotation[labelled]) * classes + prediction[labelled]
    return np.bincount(joint, minlength=classes * classes).reshape(classes, classes)


def iou_per_class(counts: NDArray[np.int64], scheme: LabelScheme) -> dict[str, float | None]:
    """Return true positives / (true positives + false negatives + false positives) for each foreground class.

    Args:
        counts: (K+1, K+1) from ``confusion``.
        scheme: the label scheme.

    Returns:
        IoU in 0 … 1 by class name; None for a class that is neither annotated nor predicted.
    """
    result: dict[str, float | None] = {}
    for value, name in enumerate(scheme.foreground, start=1):
        both = int(counts[value, value])
        either = int(counts[value].sum() + counts[:, value].sum()) - both
        result[name] = both / either if either else None
    return result


def mean_iou(per_class: dict[str, float | None]) -> float | None:
    """Return the mean over the classes that have an IoU; None if none has."""
    values: Sequence[float] = [value for value in per_class.values() if value is not None]
    return sum(values) / len(values) if values else None
