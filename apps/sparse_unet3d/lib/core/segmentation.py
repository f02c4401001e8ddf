"""From a volume to its dense segmentation on the volume's own grid (both use cases of section 1)."""

import functools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .errors import InputError
from .inference import (
    Progress,
    entropy,
    predict_labels,
    predict_labels_and_entropy,
    predict_probabilities,
    settle_statistics,
)
from .machine import Machine, is_out_of_memory
from .network import UNet
from .plan import Plan
from .precision import choose_precision, half_precision
from .preparation import prepare_image
from .slabs import SlabNetwork
from .tiles import choose_tile, given_shape
from .volumes import Volume
from .working_grid import WorkingGrid

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

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
        return self._predict(volume, machine, progress, _labels)

    def segment_with_entropy(
        self, volume: Volume, machine: Machine, progress: Progress | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """As ``segment``, and in the same pass say how unsure the network is, see ``inference.entropy``.

        Returns:
            Labels and entropy, both (X, Y, Z) uint8 on the volume's own grid.
        """
        return self._predict(volume, machine, progress, _labels_and_entropy)

    def _predict(
        self, volume: Volume, machine: Machine, progress: Progress | None, how: Callable[..., Result]
    ) -> Result:
        image, grid = prepare_image(volume, self.plan)
        least = machine.memory // SMALLEST_SHARE
        while True:
            try:
                network, tile = self._settled(image, machine)
                return how(grid, network, image, tile, machine.device, progress)
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

    def _settled(self, image: Tensor, machine: Machine) -> tuple[SlabNetwork | nn.Module, tuple[int, ...]]:
        """Return the network, ready for an image (C, *working), and the tile."""
        device, shape, statistics = machine.device, image.shape[1:], self.plan.statistics
        tile = choose_tile(shape, functools.partial(_peak_memory, self.network, shape), machine.memory)
        if statistics == "tile":
            return settle_statistics(self.network, image, tile, statistics, device), tile
        if self._dtype is None:
            settled = settle_statistics(self.network, image, tile, statistics, device)
            self._dtype = choose_precision(settled, image, device)
            logger.info("Segmenting in %s on %s", self._dtype, device)
        with half_precision(device, self._dtype):
            network = SlabNetwork(settle_statistics(self.network, image, tile, statistics, device), self._dtype)
        return network, choose_tile(shape, network.peak_memory, machine.memory)


def _labels(grid: WorkingGrid, *prediction: Any) -> NDArray[np.uint8]:
    if grid.is_native:
        return predict_labels(*prediction)
    labels: NDArray[np.uint8] = grid.back(predict_probabilities(*prediction)).argmax(dim=0).to(torch.uint8).numpy()
    return labels


def _labels_and_entropy(grid: WorkingGrid, *prediction: Any) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    if grid.is_native:
        return predict_labels_and_entropy(*prediction)
    probabilities = grid.back(predict_probabilities(*prediction))
    labels = probabilities.argmax(dim=0).to(torch.uint8).numpy()
    # Row by row: at once it would take as much memory again.
    return labels, np.stack([entropy(rows).numpy() for rows in probabilities.unbind(dim=1)])


def _peak_memory(network: UNet, shape: Sequence[int], tile: Sequence[int]) -> int:
    """Estimate the bytes that a pass of a whole tile of a volume takes."""
    return BYTES_PER_VOXEL_AND_WIDTH * network.width * math.prod(given_shape(shape, tile))
