"""Boxes that make up a volume."""

import itertools
import math
from collections.abc import Iterator

from .source import Box


def boxes(shape: tuple[int, int, int], sides: tuple[int, int, int]) -> Iterator[Box]:
    """Yield boxes of these sides that make up a volume (X, Y, Z); those at its end are smaller."""
    for x, y, z in itertools.product(*(range(0, size, side) for size, side in zip(shape, sides, strict=True))):
        yield (
            slice(x, min(x + sides[0], shape[0])),
            slice(y, min(y + sides[1], shape[1])),
            slice(z, min(z + sides[2], shape[2])),
        )


def grown(unit: tuple[int, int, int], shape: tuple[int, int, int], most: int) -> tuple[int, int, int]:
    """Return the sides of a box of whole units: as near to a cube as possible, of at most so many voxels.

    Args:
        unit: the sides of the smallest box, e.g. of a chunk of a file. It is returned if even that has more voxels.
        shape: of the volume, which no box needs to exceed.
        most: voxels.
    """
    sides = list(unit)
    while True:
        axes = [axis for axis in range(3) if sides[axis] < shape[axis]]
        for axis in sorted(axes, key=lambda axis: sides[axis]):
            larger = [side + unit[axis] * (axis == number) for number, side in enumerate(sides)]
            if math.prod(map(min, larger, shape)) <= most:
                sides = larger
                break
        else:
            x, y, z = sides
            return x, y, z
