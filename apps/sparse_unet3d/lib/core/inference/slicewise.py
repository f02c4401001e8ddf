"""The 2-D counterpart of the network, which treats all annotated slices as independent images (section 4.1)."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lib.core.annotation.slices import AnnotatedSlice, keep_slices
from lib.core.data.preparation import prepare_image
from lib.core.data.sampling import HeldVolume
from lib.core.network.evaluator import WholeTiles
from lib.core.plan.plan import Plan
from lib.core.volumes.volume import Volume
from lib.core.volumes.working_grid import WorkingGrid

from .statistics import settle_statistics
from .tiling import Tiling


def prepare_training_slices(
    volume: Volume, annotation: NDArray[np.uint8], slices: Sequence[AnnotatedSlice], plan: Plan
) -> list[HeldVolume]:
    """Turn the annotated slices of a volume into images that training tiles of two axes are drawn from.

    Args:
        volume: the image.
        annotation: (X, Y, Z) on its grid.
        slices: the annotated slices, across any axis.
        plan: the plan of the 2-D network.

    Raises:
        InputError: the volume has another number of channels than the plan.
    """
    image, grid = prepare_image(volume, plan)
    voxel_size = grid.voxel_size(volume.spacing)
    prepared = []
    for place in slices:
        index = _working_index(grid, place)
        painted = grid.annotation(keep_slices(annotation, [place]))
        prepared.append(
            HeldVolume(
                image.select(1 + place.axis, index).contiguous(),
                torch.as_tensor(np.take(painted, index, axis=place.axis)),
                tuple(size for axis, size in enumerate(voxel_size) if axis != place.axis),
            )
        )
    return prepared


def segment_slices(
    network: nn.Module, volume: Volume, slices: Sequence[AnnotatedSlice], plan: Plan, device: str
) -> dict[AnnotatedSlice, NDArray[np.uint8]]:
    """Segment single slices of a volume, each as an image of its own.

    Args:
        network: the 2-D network.
        volume: the image.
        slices: slices across any axis.
        plan: the plan by which the network was trained.
        device: ``cpu`` or ``cuda``.

    Returns:
        For each slice, its labels on the volume's own grid, along the other two axes: 0 background, 1 … K foreground.

    Raises:
        InputError: the volume has another number of channels than the plan.
    """
    image, grid = prepare_image(volume, plan)
    tiles = plan.architecture.tiles
    segmented = {}
    for place in slices:
        plane = image.select(1 + place.axis, _working_index(grid, place)).contiguous()
        tile = tiles.covering(plane.shape[1:])
        settled = settle_statistics(network, plane, replace(plan, test_tile=tile), device)
        tiling = Tiling(plane, WholeTiles(settled, tiles), tiles, 0, tile)
        probabilities = grid.slice_back(tiling.probabilities(), place.axis)
        segmented[place] = probabilities.argmax(dim=0).to(torch.uint8).numpy()
    return segmented


def _working_index(grid: WorkingGrid, place: AnnotatedSlice) -> int:
    return int(grid.working_index(place.axis, np.array(place.index)))
