"""Makes a network ready for an image: the statistics that its batch normalisation uses on it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lib.core.network.batch_norm import (
    Sample,
    Statistics,
    by_mixed_statistics,
    by_running_statistics,
    by_tile_statistics,
    by_volume_statistics,
)
from lib.core.network.slabs import laid_out
from lib.core.network.tiles import CONTEXT, LATTICE, cut_tile, given_shape, input_size, output_size
from lib.core.network.unet import UNet
from lib.core.plan.planning import SAMPLED, STATISTICS_WORK


def settle_statistics(network: UNet, image: Tensor, tile: Sequence[int], statistics: Statistics, device: str) -> UNet:
    """Return a copy of the network, on ``device``, that normalises this image as ``statistics`` says.

    Args:
        network: the U-Net.
        image: (C, *spatial) float32 in 0 … 1.
        tile: input sizes of the tiles over which statistics of the volume are taken, the plan's ``test_tile``. Memory
            has no part in it, so that labels don't depend on what is free.
        statistics: which ones batch normalisation uses.
        device: ``cpu``, ``cuda`` or ``mps``.
    """
    placed = by_running_statistics(network).to(device)
    if statistics == "running":
        return placed
    if statistics == "tile":
        return by_tile_statistics(placed)
    settle = by_volume_statistics if statistics == "volume" else by_mixed_statistics
    return settle(placed, _sample(image, tile, STATISTICS_WORK // network.width, device))


def _sample(image: Tensor, tile: Sequence[int], most: int, device: str) -> Sample:
    """Cut the tiles out of an image that its statistics are taken of.

    A tile that covers the image stands for all of it. Of a larger image these are up to ``SAMPLED`` tiles that have no
    voxel in common, at places as in a Latin square.

    Args:
        image: (C, *spatial).
        tile: input sizes; less is taken of an image that needs less.
        most: voxels that the tiles may have together; one tile is always taken.
        device: where the network runs.
    """
    shape = image.shape[1:]
    tile = tuple(min(size, input_size(length)) for size, length in zip(tile, shape, strict=True))
    along = [_apart(length, size) for length, size in zip(shape, tile, strict=True)]
    count = min(SAMPLED, max(1, most // math.prod(given_shape(shape, tile))))
    parts = [[((number * (axis + 1)) % count + 0.5) / count for axis in range(len(shape))] for number in range(count)]
    # Where few fit along the axes, several parts may mean the same tile.
    origins = dict.fromkeys(
        tuple(places[int(at * len(places))] for places, at in zip(along, part, strict=True)) for part in parts
    )
    given = torch.cat([cut_tile(image, origin, tile) for origin in origins])
    return Sample(laid_out(given.to(device)), tile, list(origins), shape)


def _apart(length: int, size: int) -> list[int]:
    """Return where the outputs of tiles start along an axis, on the lattice, so that the tiles have no voxel in common.

    They are spread evenly from one end of the image to the other; a single one lies in the middle.
    """
    room = length - output_size(size)
    if room <= 0:
        return [0]
    count = 1 + max(0, length - size) // (size + LATTICE)
    if count == 1:
        return [room // 2 // LATTICE * LATTICE]
    step = (length - size) / (count - 1)
    return [math.ceil((CONTEXT + number * step) / LATTICE - 0.5) * LATTICE for number in range(count)]
