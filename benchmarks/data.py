"""Synthetic data of the size of the paper's first sample; timings depend on sizes, not on the content."""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import zoom

SAMPLE_SHAPE = (248, 244, 64)
CHANNELS = 3
CLASSES = 3
"""Two foreground classes and the background."""

PAPER_WIDTH = 32
PAPER_TILE = (132, 132, 116)


def smooth_volume(
    shape: tuple[int, ...] = SAMPLE_SHAPE, channels: int = CHANNELS, seed: int = 0
) -> NDArray[np.float32]:
    """Return a random image (channels, X, Y, Z), float32 in 0 … 1, smooth over about eight voxels, with some noise."""
    generator = np.random.default_rng(seed)
    image = np.empty((channels, *shape), dtype=np.float32)
    for channel in image:
        coarse = generator.random([-(-size // 8) + 1 for size in shape], dtype=np.float32)
        fine = zoom(coarse, 8, order=1)[tuple(slice(0, size) for size in shape)]
        channel[:] = 0.9 * fine + 0.1 * generator.random(shape, dtype=np.float32)
    return image


def sparse_annotation(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return an annotation (X, Y, Z) of three slices along each axis: classes 1 … 3 on them, 0 elsewhere."""
    classes: NDArray[np.uint8] = (1 + np.digitize(image[0], (0.4, 0.6))).astype(np.uint8)
    annotation = np.zeros_like(classes)
    for axis, size in enumerate(classes.shape):
        for part in (1, 2, 3):
            plane = [slice(None)] * 3
            plane[axis] = slice(part * size // 4, part * size // 4 + 1)
            annotation[tuple(plane)] = classes[tuple(plane)]
    return annotation
