"""Objects: the connected components of each class of a label map."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from lib.core.volumes.source import Box

Neighbours = Literal[6, 18, 26]
"""Which voxels of a class are neighbours: those with a common face, also those with a common edge, or corner."""

SEPARATION = 0.15
"""Least prominence of a part's centre when touching objects are split, see ``split``."""


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects in a label map. They are sorted by class, and those of a class by size, the largest first.

    Attributes:
        numbers: (X, Y, Z) the number of each voxel's object, 1 … N; 0 outside all objects.
        classes: the class of each object, 1 … K.
        voxels: the number of voxels of each object.
        left_out: for each class, the number of components that are too small, and of the voxels in them.
    """

    numbers: NDArray[np.uint32]
    classes: tuple[int, ...]
    voxels: tuple[int, ...]
    left_out: dict[int, tuple[int, int]]

    def boxes(self) -> list[Box]:
        """Return the smallest box around each object."""
        boxes: list[Box] = find_objects(self.numbers.astype(np.int64))
        return boxes


def find(
    labels: NDArray[np.integer[Any]], neighbours: Neighbours, least_voxels: int, spacing: Sequence[float] | None = None
) -> Objects:
    """Find the connected components of each class.

    Args:
        labels: (X, Y, Z), 0 background, 1 … K.
        neighbours: which voxels are connected.
        least_voxels: components with fewer voxels are left out.
        spacing: the size of a voxel along X, Y, Z in mm, to ``split`` touching objects; None not to split.
    """
    parts = labels if spacing is None else split(labels, neighbours, spacing)
    numbers = cc3d.connected_components(np.ascontiguousarray(parts), connectivity=neighbours)
    voxels = np.bincount(numbers.ravel())
    # The class of a component is that of any of its voxels.
    classes = np.zeros(len(voxels), np.int64)
    classes[numbers.ravel()] = labels.ravel()
    kept = (voxels >= least_voxels) & (np.arange(len(voxels)) > 0)
    order = np.lexsort((-voxels, classes))
    order = order[kept[order]]
    renumbered = np.zeros(len(voxels), np.uint32)
    renumbered[order] = np.arange(1, len(order) + 1)
    small = ~kept
    small[0] = False
    left_out = {
        int(value): (int((classes[small] == value).sum()), int(voxels[small & (classes == value)].sum()))
        for value in np.unique(classes[small])
    }
    return Objects(renumbered[numbers], tuple(map(int, classes[order])), tuple(map(int, voxels[order])), left_out)


def split(labels: NDArray[np.integer[Any]], neighbours: Neighbours, spacing: Sequence[float]) -> NDArray[np.int64]:
    """Split components of touching, round objects by a watershed of the distance to their surface.

    A part has a centre: a maximum of log(1 + d), with the distance d to the surface in voxels, that is more prominent
    than ``SEPARATION``. So two balls are split if their neck is less than about 0.85 times as wide as the smaller ball.

    Args:
        labels: (X, Y, Z), 0 background, 1 … K.
        neighbours: which voxels are connected.
        spacing: the size of a voxel along X, Y, Z in mm.

    Returns:
        (X, Y, Z) a value for each part, 0 in the background.
    """
    numbers = cc3d.connected_components(np.ascontiguousarray(labels), connectivity=neighbours).astype(np.int64)
    unit = math.prod(spacing) ** (1 / 3)
    last = int(numbers.max())
    for number, box in enumerate(find_objects(numbers), start=1):
        mask = np.pad(numbers[box] == number, 1)
        depth = np.log1p(distance_transform_edt(mask, sampling=spacing) / unit)
        # Maxima that no deeper saddle separates become one plateau.
        centres = cc3d.connected_components(
            local_maxima(reconstruction(depth - SEPARATION, depth)) & mask, connectivity=26
        )
        if centres.max() > 1:
            parts = watershed(-depth, centres, mask=mask)[1:-1, 1:-1, 1:-1].astype(np.int64)
            numbers[box][parts > 1] = last + parts[parts > 1] - 1
            last += int(centres.max()) - 1
    return numbers
