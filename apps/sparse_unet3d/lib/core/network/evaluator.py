"""Evaluators, which run a trained network over a tile."""

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lib.core.device.precision import half_precision

from .crop import channels_last
from .mirroring import Image, cut_tile
from .tile_sizes import TileSizes, layers

RESERVE = 220 * 2**20
"""Bytes for what estimates of memory don't count in detail: input tiles, and allocations by libraries."""


class Evaluator(Protocol):
    """Runs a network whose statistics are settled over the tiles of an image."""

    def evaluate(self, image: Image, origin: Sequence[int], tile: Sequence[int]) -> Iterator[Tensor]:
        """Compute the logits of one tile.

        Args:
            image: (C, *spatial) float32, on any device.
            origin: voxel at which the tile's output starts, on the lattice.
            tile: valid input sizes.

        Yields:
            (classes, rows, *others) float32: the tile's output, in one piece or in several along its first axis.
        """

    def peak_memory(self, tile: Sequence[int]) -> int:
        """Estimate the peak memory of ``evaluate`` in bytes, for a tile of these input sizes."""


class WholeTiles:
    """Runs any network over a whole tile at once.

    Args:
        network: in evaluation mode, on the device to compute on.
        tiles: the network's tile sizes.
        dtype: floating point format to compute in.
    """

    def __init__(self, network: nn.Module, tiles: TileSizes, dtype: torch.dtype = torch.float32) -> None:
        self.network, self.tiles, self.dtype = network, tiles, dtype
        first = next(network.parameters())
        self.device = first.device
        self._values_per_voxel = _values_per_voxel(network, dims=first.ndim - 2)

    @torch.inference_mode()
    def evaluate(self, image: Image, origin: Sequence[int], tile: Sequence[int]) -> Iterator[Tensor]:
        """Compute the logits of one tile, in one piece; see ``Evaluator``."""
        given = channels_last(cut_tile(image, origin, tile, self.tiles).to(self.device))
        with half_precision(self.device.type, self.dtype):
            logits = self.network(given)
        yield logits[0].float()

    def peak_memory(self, tile: Sequence[int]) -> int:
        """Estimate the peak memory in bytes, as if all features were kept at once, which is too high."""
        return RESERVE + int(self._values_per_voxel * math.prod(tile) * self.dtype.itemsize)


def _values_per_voxel(network: nn.Module, dims: int) -> float:
    """Count the features of all layers for each voxel of a tile, as if nothing was cropped."""
    values = 0.0
    for layer, _, size in layers(network):
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            values += layer.out_channels / size**dims
        elif isinstance(layer, _BatchNorm):
            values += layer.num_features / size**dims
    return values
