"""Labels and entropy on a volume's own grid, from the tiles of its working grid."""

import itertools

import numpy as np
import torch
from numpy.typing import NDArray

from lib.core.data.large_image import LargeImage
from lib.core.data.preparation import PreparedImage
from lib.core.volumes.source import Box as NativeBox
from lib.core.volumes.working_grid import WorkingGrid

from .tiling import Box, Progress, Tiling, entropy

Place = tuple[NDArray[np.int64], ...]
"""Indices of some voxels along each axis of a volume's own grid."""

Labels = NDArray[np.uint8]
"""0 background, 1 … K foreground; 0 where an image wasn't recorded."""


def whole_labels(image: PreparedImage, tiling: Tiling, progress: Progress | None) -> Labels:
    """Return the labels (X, Y, Z) of an image."""
    if image.grid.is_native:
        labels = tiling.labels(progress)
    else:
        probabilities = tiling.probabilities(progress)
        labels = image.grid.back(probabilities).argmax(dim=0).to(torch.uint8).numpy()
    if image.outside is not None:
        labels[image.outside] = 0
    return labels


def labels_and_entropy(
    image: PreparedImage, tiling: Tiling, progress: Progress | None
) -> tuple[Labels, NDArray[np.uint8]]:
    """Return the labels and the ``tiling.entropy`` of an image, both (X, Y, Z)."""
    if image.grid.is_native:
        labels, uncertainty = tiling.labels_and_entropy(progress)
    else:
        probabilities = image.grid.back(tiling.probabilities(progress))
        labels = probabilities.argmax(dim=0).to(torch.uint8).numpy()
        # Row by row, since all rows at once would take as much memory again.
        uncertainty = np.stack([entropy(rows).numpy() for rows in probabilities.unbind(dim=1)])
    if image.outside is not None:
        labels[image.outside] = uncertainty[image.outside] = 0
    return labels, uncertainty


def around(grid: WorkingGrid, place: Place) -> Box:
    """Return the smallest box of working voxels that the labels of some voxels of the volume depend on."""
    sides = []
    for axis, index in enumerate(place):
        low, high, _ = grid.neighbours(axis, np.array([index.min(), index.max()]))
        sides.append(slice(int(low[0]), int(high[1]) + 1))
    return tuple(sides)


def labels_at(
    image: PreparedImage | LargeImage, tiling: Tiling, place: Place, part: Box, progress: Progress | None
) -> NDArray[np.uint8]:
    """Return the labels (n,) of a group of voxels.

    Args:
        image: the image.
        tiling: of it.
        place: the voxels.
        part: what their labels depend on, see ``around``.
        progress: called with the fraction done.
    """
    starts = [side.start for side in part]
    if isinstance(image, LargeImage):
        tiling = tiling.row_by_row(part)
    if image.grid.is_native:
        labels = tiling.labels(progress, part)
        found = np.asarray(labels[tuple(index - start for index, start in zip(place, starts, strict=True))])
    else:
        probabilities = tiling.probabilities(progress, part).numpy()
        along = [image.grid.neighbours(axis, index) for axis, index in enumerate(place)]
        mean = np.zeros((len(probabilities), len(place[0])), dtype=np.float32)
        for corner in itertools.product((0, 1), repeat=len(place)):
            voxel = [pair[side] - start for pair, side, start in zip(along, corner, starts, strict=True)]
            weights = [share if side else 1 - share for (_, _, share), side in zip(along, corner, strict=True)]
            here = (slice(None), *voxel)
            mean += probabilities[here] * np.prod(weights, axis=0, dtype=np.float32)
        found = np.asarray(mean.argmax(axis=0), dtype=np.uint8)
    found[_outside_at(image, place)] = 0
    return found


def _outside_at(image: PreparedImage | LargeImage, place: Place) -> NDArray[np.bool_]:
    """Return which voxels of a group were not recorded."""
    if isinstance(image, PreparedImage):
        return np.zeros(len(place[0]), bool) if image.outside is None else image.outside[place]
    x, y, z = (slice(int(index.min()), int(index.max()) + 1) for index in place)
    outside = image.outside((x, y, z))
    if outside is None:
        return np.zeros(len(place[0]), bool)
    inside = tuple(index - side.start for index, side in zip(place, (x, y, z), strict=True))
    return np.asarray(outside[inside])


def labels_in_box(image: LargeImage, tiling: Tiling, box: NativeBox) -> Labels:
    """Return the labels of a box, reading the image row by row."""
    if image.grid.is_native:
        labels = tiling.row_by_row(box).labels(part=box)
    else:
        part = _around_box(image.grid, box)
        probabilities = tiling.row_by_row(part).probabilities(part=part)
        labels = image.grid.back_in_box(probabilities, part, box).argmax(dim=0).to(torch.uint8).numpy()
    outside = image.outside(box)
    if outside is not None:
        labels[outside] = 0
    return labels


def entropy_in_box(image: LargeImage, tiling: Tiling, box: NativeBox) -> float:
    """Return the mean ``tiling.entropy`` in a box, times the fraction of its voxels that was recorded."""
    part = _around_box(image.grid, box)
    _, uncertainty = tiling.row_by_row(part).labels_and_entropy(part=part)
    outside = image.outside(box)
    recorded = 1.0 if outside is None else 1 - float(outside.mean())
    return float(uncertainty.mean()) * recorded


def _around_box(grid: WorkingGrid, box: NativeBox) -> Box:
    return around(grid, tuple(np.array([side.start, side.stop - 1]) for side in box))
