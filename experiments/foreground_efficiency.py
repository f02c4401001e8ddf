"""Foreground efficiency: how fast the accuracy rises with the foreground that is annotated."""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeWarning, curve_fit


def foreground_efficiency(foreground: Sequence[float], iou: Sequence[float], dense: float) -> float | None:
    """Fit the foreground efficiency: Lüth et al. 2025, nnActive, arXiv 2511.19183, and its code.

    As published: the score is c - a·exp(-γ·(x - x₀)), where x is the annotated part of all foreground voxels, c the
    score of dense annotation, and c - a the score with the first annotation, whose part is x₀. The efficiency is γ,
    fitted by least squares; more is better.

    Adapted: the score is IoU instead of Dice, as in the whole comparison. Each annotator is fitted alone, because
    annotators with different seeds start with different slices.

    Args:
        foreground: annotated part of the foreground voxels after each training, 0 … 1.
        iou: IoU after each training.
        dense: IoU of dense annotation.

    Returns:
        γ; None if it isn't defined: the IoU begins at that of dense annotation or above it, or is there at once, or no
        foreground was annotated after the first training.
    """
    parts, scores = np.array(foreground), np.array(iou)
    missing = dense - scores[0]
    if missing <= 0 or np.ptp(parts) == 0:
        return None

    def rise(part: NDArray[np.float64], efficiency: float) -> NDArray[np.float64]:
        rest: NDArray[np.float64] = dense - missing * np.exp(-efficiency * (part - parts[0]))
        return rest

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)
        (efficiency,), ((variance,),) = curve_fit(rise, parts, scores, p0=[1.0])
    # Where any rate that is high enough fits, the variance is infinite.
    return float(efficiency) if np.isfinite(variance) else None
