"""Geometric interpolation between the painted slices, by the algorithm of 3D Slicer's "Fill between slices"."""

import numpy as np
from numpy.typing import NDArray

from lib.core.labels import LabelScheme


def interpolate(annotation: NDArray[np.uint8], scheme: LabelScheme) -> NDArray[np.uint8]:
    """Fill the space between the painted slices.

    Args:
        annotation: (X, Y, Z), 0 unlabelled, 1 … K foreground, K+1 background.
        scheme: the label scheme.

    Returns:
        (X, Y, Z), 0 background, 1 … K foreground.
    """
    # Imported here, because only the benchmarks' requirements contain it.
    import itk

    # The algorithm interpolates structures only; to it, 0 is both painted background and unlabelled.
    painted = np.where(annotation == scheme.background_value, 0, annotation).astype(np.uint8)
    filled = itk.morphological_contour_interpolator(itk.image_from_array(painted))
    result: NDArray[np.uint8] = itk.array_from_image(filled).astype(np.uint8)
    return result
