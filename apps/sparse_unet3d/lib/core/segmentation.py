"""From a volume to its dense segmentation on the volume's own grid (both use cases of section 1)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .inference import Progress, predict_labels, predict_probabilities
from .model import Model
from .plan import Plan, prepare_image
from .tiles import choose_tile
from .volumes import Volume

CPU_MEMORY = 6e9
"""Bytes that one tile may take on a CPU."""

BYTES_PER_VOXEL_AND_WIDTH = 30
"""Peak memory of a forward pass per input voxel and unit of width; 25 were measured at the paper's width."""


def max_tile_voxels(plan: Plan, device: str) -> int:
    """Return how many input voxels a tile may have in the memory there is."""
    on_gpu = torch.device(device).type == "cuda"
    memory = 0.7 * torch.cuda.mem_get_info(device)[0] if on_gpu else CPU_MEMORY
    return int(memory / (BYTES_PER_VOXEL_AND_WIDTH * plan.width))


def segment(model: Model, volume: Volume, device: str = "cpu", progress: Progress | None = None) -> NDArray[np.uint8]:
    """Segment a volume densely.

    Args:
        model: the trained network with its plan.
        volume: of any size, with the model's number of channels.
        device: ``cpu`` or ``cuda``.
        progress: called with the fraction done.

    Returns:
        (X, Y, Z) uint8 on the volume's own grid: 0 background, 1 … K foreground.

    Raises:
        InputError: the volume has another number of channels than the model.
    """
    return segment_with(model.network, model.plan, volume, device, progress)


def segment_with(
    network: nn.Module, plan: Plan, volume: Volume, device: str = "cpu", progress: Progress | None = None
) -> NDArray[np.uint8]:
    """As ``segment``, for a network that is still in training."""
    image, grid = prepare_image(volume, plan)
    tile = choose_tile(grid.working, max_tile_voxels(plan, device))
    if grid.is_native:
        return predict_labels(network, image, tile, plan.statistics, device, progress)
    probabilities = predict_probabilities(network, image, tile, plan.statistics, device, progress)
    return grid.back(probabilities).argmax(dim=0).to(torch.uint8).numpy()
