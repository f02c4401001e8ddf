"""Boxes that are spread over a volume."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import qmc

from .source import Box, shape_of_box

_TRIES = 4
"""How many points are tried for each cell before those that none has met follow in their order."""


def spread(shape: tuple[int, int, int], sides: tuple[int, int, int]) -> Iterator[Box]:
    """Yield boxes that don't overlap, as many as fit side by side. The first ones are spread over the volume already.

    Args:
        shape: of the volume.
        sides: of each box. No box is larger than the volume.
    """
    sides = shape_of_box((slice(0, sides[0]), slice(0, sides[1]), slice(0, sides[2])), shape)
    counts = [size // side for size, side in zip(shape, sides, strict=True)]

    def place(size: int, side: int, number: int, count: int) -> slice:
        # What is left of an axis is shared among the gaps, and half as much at both ends.
        start = number * side + (size - count * side) * (2 * number + 1) // (2 * count)
        return slice(start, start + side)

    for cell in _spread_cells(counts):
        x, y, z = map(place, shape, sides, cell, counts)
        yield x, y, z


def _spread_cells(counts: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield each cell of a grid once, in the order of a sequence of points that is evenly spread."""
    seen, points = set[tuple[int, ...]](), qmc.Halton(len(counts), scramble=False)
    points.fast_forward(1)  # It begins in the corner.
    for _ in range(_TRIES * math.prod(counts)):
        if len(seen) == math.prod(counts):
            return
        cell = tuple((points.random(1)[0] * counts).astype(int).tolist())
        if cell not in seen:
            seen.add(cell)
            yield cell
    yield from (cell for cell in np.ndindex(*counts) if cell not in seen)
