"""Prepare a network for an image: set the statistics that batch normalisation uses on it."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from lib.core.network.architecture import Architecture
from lib.core.network.batch_norm import (
    Sample,
    by_mixed_statistics,
    by_running_statistics,
    by_tile_statistics,
    by_volume_statistics,
)
from lib.core.network.crop import channels_last
from lib.core.network.mirroring import Image, cut_tile
from lib.core.network.tile_sizes import TileSizes
from lib.core.plan.plan import Plan
from lib.core.plan.planning import SAMPLED, STATISTICS_WORK


def settle_statistics(network: nn.Module, image: Image, plan: Plan, device: str) -> nn.Module:
    """Return a copy of the network, on ``device``, that normalises this image as the plan says.

    The plan also sets the tiles over which statistics of the volume are taken, so that labels don't depend on the free
    memory.

    Args:
        network: built by the plan.
        image: (C, *spatial) float32 in 0 … 1.
        plan: the plan by which the network was trained.
        device: ``cpu``, ``cuda`` or ``mps``.
    """
    placed = by_running_statistics(network).to(device)
    if plan.statistics == "running":
        return placed
    if plan.statistics == "tile":
        return by_tile_statistics(placed)
    settle = by_volume_statistics if plan.statistics == "volume" else by_mixed_statistics
    sample = sample_tiles(image, plan.test_tile, STATISTICS_WORK // plan.width, plan.architecture)
    return settle(placed, replace(sample, given=channels_last(sample.given.to(device))), plan.architecture.compute)


def sample_tiles(image: Image, tile: Sequence[int], most: int, architecture: Architecture) -> Sample:
    """Cut out the tiles over which an image's statistics are taken.

    If one tile covers the image, it is the only one. In a larger image, they are up to ``SAMPLED`` tiles that have no
    voxel in common, placed as in a Latin square.

    Args:
        image: (C, *spatial).
        tile: input sizes; smaller where the image needs less.
        most: voxels that may be computed together; one tile is always taken.
        architecture: the network's.
    """
    shape, tiles = image.shape[1:], architecture.tiles
    tile = tiles.no_larger_than_needed(tile, shape)
    given = architecture.given_shape(shape, tile)
    origins = _origins(shape, tile, given, most, tiles)
    inputs = [cut_tile(image, origin, given, tiles) for origin in origins]
    return Sample(torch.cat(inputs), tile, origins, shape)


def sampled_voxels(shape: Sequence[int], plan: Plan) -> int:
    """Return the number of voxels that are computed to take the statistics of an image of this shape by the plan."""
    tiles = plan.architecture.tiles
    tile = tiles.no_larger_than_needed(plan.test_tile, shape)
    given = plan.architecture.given_shape(shape, tile)
    return len(_origins(shape, tile, given, STATISTICS_WORK // plan.width, tiles)) * math.prod(given)


def _origins(
    shape: Sequence[int], tile: Sequence[int], given: Sequence[int], most: int, tiles: TileSizes
) -> list[tuple[int, ...]]:
    """Return where the outputs of the tiles of a sample start, see ``sample_tiles``."""
    along = [_apart(length, size, tiles) for length, size in zip(shape, tile, strict=True)]
    count = min(SAMPLED, max(1, most // math.prod(given)))
    parts = [[((number * (axis + 1)) % count + 0.5) / count for axis in range(len(shape))] for number in range(count)]
    # If few tiles fit along the axes, several parts may give the same tile.
    origins = dict.fromkeys(
        tuple(places[int(at * len(places))] for places, at in zip(along, part, strict=True)) for part in parts
    )
    return list(origins)


def _apart(length: int, size: int, tiles: TileSizes) -> list[int]:
    """Return where the outputs of tiles start along an axis, on the lattice, so that the tiles have no voxel in common.

    They are spread evenly from one end of the image to the other; a single one lies in the middle.
    """
    room = length - tiles.output_size(size)
    if room <= 0:
        return [0]
    count = 1 + max(0, length - size) // (size + tiles.lattice)
    if count == 1:
        return [room // 2 // tiles.lattice * tiles.lattice]
    step = (length - size) / (count - 1)
    return [math.ceil((tiles.context + number * step) / tiles.lattice - 0.5) * tiles.lattice for number in range(count)]
