"""The mirrored volume that the network sees, made by numpy's padding alone."""

import numpy as np
import torch
from torch import Tensor

CONTEXT, LATTICE, SMALLEST = 44, 8, 92
"""Sizes of the paper's network, according to the paper's figure 2."""


def mirrored(image: Tensor, border: int) -> Tensor:
    """Return an image (C, *spatial) with ``border`` voxels more on each side.

    An axis of up to 89 voxels is first extended by mirroring behind its end, to 9, 13, 17, … voxels.
    """
    behind = [(0, max(9 - length, (1 - length) % 4) if length <= 89 else 0) for length in image.shape[1:]]
    result = np.pad(image.numpy(), [(0, 0), *behind], mode="reflect")
    for axis, ((_, added), length) in enumerate(zip(behind, image.shape[1:], strict=True), start=1):
        pad = [(0, 0)] * result.ndim
        pad[axis] = (border, border - added)
        result = np.pad(result, pad, mode="reflect")
        assert result.shape[axis] == length + 2 * border
    return torch.from_numpy(result)


def mirrored_tile(image: Tensor) -> Tensor:
    """Return (1, C, *tile): the smallest valid input whose output covers an image (C, *spatial)."""
    sizes = [length + 2 * CONTEXT + (SMALLEST - length - 2 * CONTEXT) % LATTICE for length in image.shape[1:]]
    result = mirrored(image, CONTEXT + LATTICE)
    box = (slice(None), *(slice(LATTICE, LATTICE + size) for size in sizes))
    tile: Tensor = result[box]
    return tile.unsqueeze(0)
