"""Which level of an image pyramid is used."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .volume import Geometry
from .voxel_size import wanted_spacing

LARGEST_LEVEL = 2**31
"""Most bytes of the voxels of the level that is used. Annotations lie on its grid, so it must be the same level on each
computer, whatever its memory."""


def choose_level(spacings: Sequence[NDArray[np.float64]], sizes: Sequence[int]) -> int:
    """Return the number of the level to use.

    It is the coarsest whose voxels aren't larger than the wanted spacing, else the finest; where its voxels take more
    than ``LARGEST_LEVEL`` bytes, it is the next one whose voxels don't.

    Args:
        spacings: of each level, the finest first, the size of its voxels along X, Y, Z in mm.
        sizes: of each level, the bytes of its voxels.
    """
    wanted, levels = wanted_spacing(), range(len(spacings))
    first = 0 if wanted is None else coarsest(spacings, wanted)
    return next((i for i in levels[first:] if sizes[i] <= LARGEST_LEVEL), levels[-1])


def coarsest(spacings: Sequence[NDArray[np.float64]], wanted: Sequence[float]) -> int:
    """Return the number of the coarsest level whose voxels aren't larger than wanted, else of the finest.

    Args:
        spacings: see ``choose_level``.
        wanted: largest voxels along X, Y, Z in mm.
    """
    fine = [number for number, size in enumerate(spacings) if (size <= np.array(wanted) * (1 + 1e-6)).all()]
    return max(fine, default=0)


def level_notes(geometry: Geometry, level: int) -> tuple[str, ...]:
    """Return what to tell a person of the level that is used: its voxels, if it isn't the finest."""
    if level == 0:
        return ()
    size = " x ".join(f"{size:g}" for size in geometry.spacing)
    return (
        f"{geometry.name}: level {level} of the pyramid is used, whose voxels are {size} mm; annotations and "
        "predictions have these voxels. Another --conf spacing may choose another level",
    )
