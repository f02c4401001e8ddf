"""Dense annotations for tests."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter


def structures(shape: tuple[int, ...], seed: int = 0, size: float = 9) -> NDArray[np.uint8]:
    """Return a volume full of rounded structures of about ``size`` voxels: values 1 and 2, and 3 for the rest."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), size / 3)
    low, high = np.percentile(noise, [70, 85])
    return np.where(noise > high, 1, np.where(noise > low, 2, 3)).astype(np.uint8)
