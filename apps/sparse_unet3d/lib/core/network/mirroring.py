"""What a network sees outside a volume: the volume's mirror image (section 1.1, as in the u-net).

Along each axis, a mirrored volume repeats itself. In a tile that covers a thin volume, the period is lengthened to a
multiple of the lattice. The poolings then see the same pairs in each period, and ``repetition`` can save work.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .tile_sizes import TileSizes


class Image(Protocol):
    """What tiles are cut from: a tensor (C, *spatial), or an image whose boxes are read when they are wanted."""

    @property
    def shape(self) -> Sequence[int]:
        """(C, *spatial)."""

    def __getitem__(self, box: tuple[slice, ...], /) -> Tensor:
        """Return a box (C, *box). The first slice takes all channels; the others have a start and a stop."""


def period(length: int, tiles: TileSizes) -> int | None:
    """Return after how many voxels along an axis a mirrored volume repeats itself.

    Args:
        length: voxels of the volume along the axis.
        tiles: the network's.

    Returns:
        A multiple of the lattice; None where a tile that covers the axis is no longer than that.
    """
    # At least two lattice steps: a single value has no variance, which batch normalisation needs.
    repeat = max(2, math.ceil(2 * (length - 1) / tiles.lattice)) * tiles.lattice
    return repeat if repeat < tiles.input_size(length) else None


def mirror(positions: NDArray[np.int64], length: int, tiles: TileSizes) -> NDArray[np.int64]:
    """Map positions outside ``0 … length - 1`` to those they mirror, repeatedly where the volume is thin.

    The border voxel is not repeated: -1 becomes 1. A volume of one voxel repeats it. If the axis has a ``period``, the
    volume is first extended at its end by mirroring, to ``period / 2 + 1`` voxels. This usually adds up to 3 voxels.
    """
    repeat = period(length, tiles)
    return _folded(positions if repeat is None else _folded(positions, repeat // 2 + 1), length)


def _folded(positions: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    if length == 1:
        return np.zeros_like(positions)
    folded = np.mod(positions, 2 * (length - 1))
    return np.where(folded < length, folded, 2 * (length - 1) - folded)


def cut(image: Image, start: Sequence[int], size: Sequence[int], tiles: TileSizes) -> Tensor:
    """Cut a box out of an image, mirrored outside.

    Args:
        image: (C, *spatial).
        start: first voxel, which may lie outside.
        size: in voxels.
        tiles: the network's.

    Returns:
        (1, C, *size).
    """
    positions = [
        mirror(np.arange(first, first + length), whole, tiles)
        for first, length, whole in zip(start, size, image.shape[1:], strict=True)
    ]
    needed = (slice(None), *(slice(int(along.min()), int(along.max()) + 1) for along in positions))
    box = image[needed]
    for axis, along in enumerate(positions, start=1):
        if len(along) != box.shape[axis] or (np.diff(along) != 1).any():
            box = box.index_select(axis, torch.as_tensor(along - along.min(), device=box.device))
    return box.unsqueeze(0)


def cut_tile(image: Image, origin: Sequence[int], tile: Sequence[int], tiles: TileSizes) -> Tensor:
    """Cut an input tile, or the part of it that is computed, out of an image.

    Args:
        image: (C, *spatial).
        origin: voxel at which the tile's output starts.
        tile: in voxels.
        tiles: the network's.

    Returns:
        (1, C, *tile).
    """
    return cut(image, [start - tiles.context for start in origin], tile, tiles)
