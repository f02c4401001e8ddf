"""From a volume to its dense segmentation on the volume's own grid (both use cases of section 1)."""

import functools
import logging
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .errors import InputError
from .inference import Progress, predict_labels, predict_probabilities, settle_statistics
from .machine import Machine, is_out_of_memory
from .network import UNet
from .plan import Plan
from .precision import choose_precision
from .preparation import prepare_image
from .slabs import SlabNetwork
from .tiles import choose_tile, given_shape
from .volumes import Volume
from .working_grid import WorkingGrid

logger = logging.getLogger(__name__)

BYTES_PER_VOXEL_AND_WIDTH = 30
"""Peak memory of a forward pass of a whole tile per input voxel and unit of width; 25 were measured at width 32."""

SMALLEST_SHARE = 16
"""Out of memory, half of it is tried, a quarter, … down to this part."""


class Segmenter:
    """Segments volumes by one network."""

    def __init__(self, network: UNet, plan: Plan, dtype: torch.dtype | None = None) -> None:
        """Prepare to segment.

        Args:
            network: the U-Net; neither changed nor copied before it is used.
            plan: what it was trained by.
            dtype: floating point format of frozen networks; None: by a short measurement on the first volume.
        """
        self.network = network
        self.plan = plan
        self._dtype = dtype

    def segment(self, volume: Volume, machine: Machine, progress: Progress | None = None) -> NDArray[np.uint8]:
        """Segment a volume densely.

        Where memory is short, smaller tiles are tried, and then the CPU.

        Args:
            volume: of any size, with the plan's number of channels.
            machine: what to compute on.
            progress: called with the fraction done.

        Returns:
            (X, Y, Z) uint8 on the volume's own grid: 0 background, 1 … K foreground.

        Raises:
            InputError: the volume has another number of channels than the plan, or memory is too short for the
                smallest tile.
        """
        image, grid = prepare_image(volume, self.plan)
        least = machine.memory // SMALLEST_SHARE
        while True:
            try:
                return self._segment(image, grid, machine, progress)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                logger.warning(
                    "%s: out of memory on %s with tiles for %.1f GB", volume.name, machine.device, machine.memory / 1e9
                )
            if machine.device == "cuda":
                torch.cuda.empty_cache()
            if machine.memory > least:
                machine = machine.with_half()
            elif machine.instead:
                machine = machine.instead
                least = machine.memory // SMALLEST_SHARE
            else:
                raise InputError(
                    f"{volume.name}: memory doesn't suffice to segment it, even in small tiles; close other programs, "
                    "or train with a smaller --conf width"
                )

    def _segment(
        self, image: Tensor, grid: WorkingGrid, machine: Machine, progress: Progress | None
    ) -> NDArray[np.uint8]:
        """Segment an image (C, *working) on its volume's own grid."""
        device, shape = machine.device, image.shape[1:]
        whole_tile = choose_tile(shape, functools.partial(_peak_memory, self.network, shape), machine.memory)
        settled = settle_statistics(self.network, image, whole_tile, self.plan.statistics, device)
        network: SlabNetwork | nn.Module = settled
        tile = whole_tile
        if self.plan.statistics != "tile":
            if self._dtype is None:
                self._dtype = choose_precision(settled, image, device)
                logger.info("Segmenting in %s on %s", self._dtype, device)
            network = SlabNetwork(settled, self._dtype)
            tile = choose_tile(shape, network.peak_memory, machine.memory)
        if grid.is_native:
            return predict_labels(network, image, tile, device, progress)
        probabilities = predict_probabilities(network, image, tile, device, progress)
        return grid.back(probabilities).argmax(dim=0).to(torch.uint8).numpy()


def _peak_memory(network: UNet, shape: Sequence[int], tile: Sequence[int]) -> int:
    """Estimate the bytes that a pass of a whole tile of a volume takes."""
    return BYTES_PER_VOXEL_AND_WIDTH * network.width * math.prod(given_shape(shape, tile))
