"""Input that repeats itself, computed once: what makes thin volumes cheap to segment.

A thin volume, mirrored at its borders, repeats itself within a tile, and so do all features that a network computes
from it. Along an axis that the tile covers, one ``period`` is given; features are held once, and repeated where a layer
needs more of them. Measured: 36×50×36 voxels take a quarter of the input voxels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .mirroring import period
from .tile_sizes import TileSizes


def given_shape(shape: Sequence[int], tile: Sequence[int], tiles: TileSizes) -> tuple[int, ...]:
    """Return the voxels that are given of a tile: one period along the axes that it covers and that have one.

    Args:
        shape: the volume in voxels.
        tile: valid input sizes.
        tiles: the network's.
    """
    return tuple(
        (period(length, tiles) or size) if tiles.output_size(size) >= length else size
        for length, size in zip(shape, tile, strict=True)
    )


def extended(features: Tensor, rows: Sequence[int]) -> Tensor:
    """Append ``rows`` rows to features (N, C, *spatial) along each spatial axis, repeating them from the first on."""
    return cropped(features, [0] * len(rows), [size + n for size, n in zip(features.shape[2:], rows, strict=True)])


def cropped(features: Tensor, starts: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Cut a box out of features (N, C, *spatial); where it reaches beyond their end, they repeat themselves."""
    for axis, (start, size) in enumerate(zip(starts, sizes, strict=True), start=2):
        length = features.shape[axis]
        if start + size <= length:
            features = features.narrow(axis, start, size)
        else:
            rows = torch.arange(start, start + size, device=features.device) % length
            features = features.index_select(axis, rows)
    return features
