"""Tile arithmetic: which input sizes are valid, what comes out, how tiles cover a volume (section 2, figure 2).

Every convolution is valid (unpadded), so the output is ``CONTEXT`` voxels smaller on each side. Three 2×2×2 poolings
must divide evenly, which leaves the sizes n ≡ 4 (mod 8), n ≥ 92. Because of the poolings the network commutes with
shifts by multiples of 8 only: tiles whose output starts on that lattice, in a frame fixed to the volume, compute
exactly the same voxels as one pass over the whole volume.

Outside, a volume is mirrored, so along each axis it repeats itself, and so do all features of a network that sees it. A
tile that covers an axis of a thin volume is therefore given as one ``period`` of it; the network computes each feature
once and repeats it.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lib.core.errors import InputError

LATTICE = 8
"""Distance in voxels between admissible tile origins: three poolings by two."""

CONTEXT = 44
"""Voxels that the valid convolutions cut off on each side of a tile."""

SMALLEST = 92
"""Smallest valid input size along an axis; its output is 4 voxels wide."""

STEP = 1.15
"""Ratio of the numbers of tiles along an axis that are compared."""


def is_valid(size: int) -> bool:
    """Tell whether an input of ``size`` voxels along an axis passes all poolings evenly."""
    return size >= SMALLEST and size % LATTICE == SMALLEST % LATTICE


def next_valid(size: int) -> int:
    """Return the smallest valid input size that is at least ``size``."""
    return max(SMALLEST, size + (SMALLEST - size) % LATTICE)


def output_size(size: int) -> int:
    """Return the output size along an axis for a valid input size.

    Raises:
        InputError: ``size`` is not valid; the message names the nearest sizes that are.
    """
    if not is_valid(size):
        above = next_valid(size)
        nearest = str(above) if above == SMALLEST else f"{above - LATTICE} or {above}"
        raise InputError(f"tile: {size} voxels along an axis don't pass three poolings evenly; take {nearest}")
    return size - 2 * CONTEXT


def input_size(output: int) -> int:
    """Return the smallest valid input size whose output is at least ``output`` voxels."""
    return next_valid(output + 2 * CONTEXT)


def output_shape(tile: Sequence[int]) -> tuple[int, ...]:
    """Return ``output_size`` for each axis of an input tile."""
    return tuple(output_size(size) for size in tile)


def axis_origins(length: int, size: int) -> list[int]:
    """Return where the outputs of tiles start along an axis, so that together they cover ``0 … length - 1``.

    Args:
        length: voxels of the volume along the axis.
        size: valid input size of the tile along it.

    Raises:
        InputError: ``size`` is not valid, or its output of 4 voxels leaves gaps between lattice points.
    """
    output = output_size(size)
    if length <= output:
        return [0]
    step = output - output % LATTICE
    if step == 0:
        raise InputError(
            f"tile: an input of {size} voxels gives {output}, less than the lattice of {LATTICE}; "
            f"take at least {SMALLEST + LATTICE}"
        )
    return list(range(0, length - output + step, step))


def _axis_choices(length: int) -> list[tuple[int, int]]:
    """Return (tiles, input size) along an axis: for some numbers of tiles the smallest size that covers ``length``.

    Numbers that differ by less than ``STEP`` differ little in cost; of those, one is enough.
    """
    choices = [(1, input_size(length))]
    smallest = SMALLEST + LATTICE
    for size in range(choices[0][1] - LATTICE, smallest - 1, -LATTICE):
        tiles = len(axis_origins(length, size))
        if tiles >= STEP * choices[-1][0] or (size == smallest and tiles > choices[-1][0]):
            choices.append((tiles, size))
        elif tiles == choices[-1][0]:
            choices[-1] = (tiles, size)
    return choices


def choose_tile(
    shape: Sequence[int],
    peak_memory: Callable[[Sequence[int]], int],
    memory: int,
    part: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """Choose the tile that covers a volume, or a part of it, with the least computation within a limit of memory.

    Args:
        shape: the volume in voxels.
        peak_memory: the memory that a tile of these input sizes takes.
        memory: the limit.
        part: the part's size in voxels; None: the volume's.

    Returns:
        Valid input sizes for each axis. Larger tiles waste less on their borders, so the limit is used up; where even
        the tile that takes least is above the limit, that one is returned.
    """

    def cost(choice: Sequence[tuple[int, int]]) -> tuple[int, int]:
        tile = [size for _, size in choice]
        taken = peak_memory(tile)
        return max(taken, memory), math.prod(given_shape(shape, tile)) * math.prod(tiles for tiles, _ in choice)

    choices = itertools.product(*(_axis_choices(length) for length in part or shape))
    return tuple(size for _, size in min(choices, key=cost))


def choose_training_tile(shape: Sequence[int], most: int, context: int) -> tuple[int, ...]:
    """Choose the tile with the most output inside a volume among those of which few enough voxels are given.

    Args:
        shape: the volume in voxels.
        most: voxels that may be given; see ``given_shape``.
        context: voxels given on each side of the output.

    Returns:
        Valid input sizes for each axis; the smallest where even of that more are given.
    """
    sizes = [range(SMALLEST, input_size(length) + 1, LATTICE) for length in shape]
    by_axis = list(zip(shape, sizes, strict=True))
    given = _products([given_shape([length], [size], context)[0] for size in axis] for length, axis in by_axis)
    output = _products([min(output_size(size), length) for size in axis] for length, axis in by_axis)
    # Few enough voxels first, then most output, then fewest voxels.
    best = np.lexsort((given.ravel(), -output.ravel(), np.maximum(given, most).ravel()))[0]
    return tuple(int(axis[index]) for axis, index in zip(sizes, np.unravel_index(best, given.shape), strict=True))


def _products(factors: Iterable[Sequence[int]]) -> NDArray[np.int64]:
    """Return the product of each combination of one factor along each axis."""
    return functools.reduce(np.multiply.outer, [np.array(axis, dtype=np.int64) for axis in factors])


def period(length: int) -> int | None:
    """Return after how many voxels along an axis a mirrored volume repeats itself.

    Args:
        length: voxels of the volume along the axis.

    Returns:
        A multiple of 8, so that the poolings see the same pairs again; None where a tile that covers the axis is no
        longer than that.
    """
    # At least two lattice steps: of a single value, batch normalisation knows no variance.
    repeat = max(2, math.ceil((length - 1) / 4)) * LATTICE
    return repeat if repeat < input_size(length) else None


def given_shape(shape: Sequence[int], tile: Sequence[int], context: int = CONTEXT) -> tuple[int, ...]:
    """Return the voxels that are given of a tile: one period along the axes that it covers and that have one.

    Args:
        shape: the volume in voxels.
        tile: valid input sizes.
        context: voxels given on each side of the output, 2 (mod 4); where that is less than the network sees, the tile
            repeats itself beyond.
    """
    return tuple(
        min(size - 2 * (CONTEXT - context), (period(length) or size) if output_size(size) >= length else size)
        for length, size in zip(shape, tile, strict=True)
    )


def one_pass_voxels(shape: Sequence[int]) -> int:
    """Return the input voxels given for one pass over a whole volume of this working shape, border included."""
    return math.prod(given_shape(shape, [input_size(length) for length in shape]))


def mirror(positions: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Map positions outside ``0 … length - 1`` to those they mirror, repeatedly where the volume is thin.

    The border voxel is not repeated: -1 becomes 1. A volume of one voxel repeats it. Where there is a ``period``, the
    volume is first mirrored behind its end to half of that and one voxel more, mostly by up to 3 voxels.
    """
    repeat = period(length)
    return _folded(positions if repeat is None else _folded(positions, repeat // 2 + 1), length)


def _folded(positions: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    if length == 1:
        return np.zeros_like(positions)
    folded = np.mod(positions, 2 * (length - 1))
    return np.where(folded < length, folded, 2 * (length - 1) - folded)


def cut(image: Tensor, start: Sequence[int], size: Sequence[int]) -> Tensor:
    """Cut a box out of an image, mirrored outside.

    Args:
        image: (C, *spatial).
        start: first voxel, which may lie outside.
        size: in voxels.

    Returns:
        (1, C, *size).
    """
    for axis, (first, length) in enumerate(zip(start, size, strict=True), start=1):
        if first == 0 and length == image.shape[axis]:
            continue
        positions = torch.as_tensor(mirror(np.arange(first, first + length), image.shape[axis]), device=image.device)
        image = image.index_select(axis, positions)
    return image.unsqueeze(0)


def cut_tile(image: Tensor, origin: Sequence[int], tile: Sequence[int]) -> Tensor:
    """Cut what is given of an input tile out of an image.

    Args:
        image: (C, *spatial).
        origin: voxel at which the tile's output starts.
        tile: valid input sizes.

    Returns:
        (1, C, *given), see ``given_shape``.
    """
    return cut(image, [start - CONTEXT for start in origin], given_shape(image.shape[1:], tile))
