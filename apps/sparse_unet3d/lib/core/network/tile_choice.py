"""Choose a tile: the cheapest that fits into memory (inference), or the one with the most output (training)."""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from .tile_sizes import TileSizes

STEP = 1.15
"""Least ratio between the numbers of tiles along an axis that are compared."""


def choose_tile(
    tiles: TileSizes,
    shape: Sequence[int],
    peak_memory: Callable[[Sequence[int]], int],
    memory: int,
) -> tuple[int, ...]:
    """Choose the tile that covers a volume, or a part of one, with the least computation within a limit of memory.

    Args:
        tiles: the network's.
        shape: the volume or the part, in voxels.
        peak_memory: returns the memory that a tile of these input sizes takes.
        memory: the limit.

    Returns:
        Valid input sizes for each axis. Larger tiles waste less on their borders, so the tile nearly reaches the limit.
        If no tile is within the limit, the one that takes the least memory is returned.
    """

    def cost(choice: Sequence[tuple[int, int]]) -> tuple[int, int]:
        tile = [size for _, size in choice]
        return max(peak_memory(tile), memory), math.prod(tile) * math.prod(count for count, _ in choice)

    choices = itertools.product(*(_axis_choices(tiles, length) for length in shape))
    return tuple(size for _, size in min(choices, key=cost))


def _axis_choices(tiles: TileSizes, length: int) -> list[tuple[int, int]]:
    """Return (tiles, input size) along an axis: for some numbers of tiles the smallest size that covers ``length``.

    Numbers that differ by less than ``STEP`` differ little in cost; one of them is enough.
    """
    choices = [(1, tiles.input_size(length))]
    smallest = tiles.next_valid(2 * tiles.context + tiles.lattice)
    for size in range(choices[0][1] - tiles.lattice, smallest - 1, -tiles.lattice):
        count = len(tiles.axis_origins(length, size))
        if count >= STEP * choices[-1][0] or (size == smallest and count > choices[-1][0]):
            choices.append((count, size))
        elif count == choices[-1][0]:
            choices[-1] = (count, size)
    return choices


def choose_largest_tile(
    tiles: TileSizes, shape: Sequence[int], most: int, input_size: Callable[[int, int], int]
) -> tuple[int, ...]:
    """Choose the tile with the most output inside a volume among those that are small enough.

    Args:
        tiles: the network's.
        shape: the volume in voxels.
        most: largest number of input voxels.
        input_size: returns the number of voxels computed along an axis, given the volume's length and the tile's size.

    Returns:
        Valid input sizes for each axis; the smallest tile if even that is too large.
    """
    sizes = [range(tiles.smallest, tiles.input_size(length) + 1, tiles.lattice) for length in shape]
    along = list(zip(shape, sizes, strict=True))
    voxels = _products([input_size(length, size) for size in axis] for length, axis in along)
    output = _products([min(tiles.output_size(size), length) for size in axis] for length, axis in along)
    # Prefer tiles that are small enough, then the most output, then the fewest voxels.
    best = np.lexsort((voxels.ravel(), -output.ravel(), np.maximum(voxels, most).ravel()))[0]
    return tuple(int(axis[index]) for axis, index in zip(sizes, np.unravel_index(best, voxels.shape), strict=True))


def choose_training_tile(tiles: TileSizes, shape: Sequence[int], most: int, context: int) -> tuple[int, ...]:
    """Choose the training tile with the most output.

    Args:
        tiles: the network's.
        shape: the volume in voxels.
        most: largest number of voxels of the tile: its output and the context around it.
        context: voxels on each side of the output.

    Returns:
        Valid input sizes for each axis, see ``choose_largest_tile``.
    """
    return choose_largest_tile(tiles, shape, most, lambda _, size: tiles.output_size(size) + 2 * context)


def _products(factors: Iterable[Sequence[int]]) -> NDArray[np.int64]:
    """Return the product of each combination of one factor along each axis."""
    return functools.reduce(np.multiply.outer, [np.array(axis, dtype=np.int64) for axis in factors])
