"""Make the plan from the volumes, the device and what a person decided."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch

from lib.core.labels import LabelScheme
from lib.core.network.architecture import Architecture
from lib.core.network.architectures import architecture
from lib.core.network.tile_choice import choose_largest_tile, choose_training_tile
from lib.core.volumes.stored_volume import StoredVolume
from lib.core.volumes.volume import Volume
from lib.core.volumes.working_grid import WorkingGrid

from .options import PlanOptions
from .paper import as_in_paper
from .plan import PAPER_WIDTH, Plan

TILE_VOXELS = 2_250_000
"""Most voxels of a training tile on a GPU; the paper's has two million."""

CPU_TILE_VOXELS = 200_000
"""The same on a CPU. Measured over the same time, many steps on small tiles taught a network more than a few steps on
large ones, down to about this size."""

CPU_WIDTH = 8
"""Default width without a GPU. On two cores, a step on the paper's tile takes 2 s; at the paper's width, about 15 s."""

LARGE = 3
"""A volume is sampled at several places if it has more than this many times the voxels of one pass."""

MOST_ELONGATED = 2.0
"""Largest ratio between the sides of a working voxel; the paper's are nearly cubes (1.76 × 1.76 × 2.04 µm)."""

SAMPLED = 5
"""Largest number of tiles for the statistics of a large volume."""

STATISTICS_WORK = 64_000_000
"""Most voxels of all these tiles, times the network's width. They are computed together, in about 2 GB in float32."""


def make_plan(volumes: Sequence[Volume | StoredVolume], scheme: LabelScheme, options: PlanOptions, device: str) -> Plan:
    """Decide on the plan for a set of annotated volumes.

    On a GPU the network has the paper's width, and training tiles are about as large as the paper's. On a CPU the
    network is narrower, and tiles are smaller: they have no more context than a padded network needs (figures in
    ``benchmarks/README.md``). In both cases, the tile's shape has the most output for its size.

    Args:
        volumes: at least one, all of the same number of channels.
        scheme: the label scheme.
        options: what a person decided.
        device: ``cpu`` or ``cuda``.
    """
    on_cpu = torch.device(device).type == "cpu"
    voxel_size = tuple(np.median([volume.spacing for volume in volumes], axis=0).tolist())
    spacing = options.spacing or _nearly_cubic(voxel_size)
    largest = np.max([WorkingGrid.of(volume.shape, volume.spacing, spacing).working for volume in volumes], axis=0)
    network = architecture(options.network)
    tiles = network.tiles
    context = tiles.padded_context if on_cpu else tiles.context
    width = options.width or (CPU_WIDTH if on_cpu else PAPER_WIDTH)
    plan = Plan(
        scheme=scheme,
        channels=volumes[0].channels,
        spacing=spacing,
        width=width,
        unpainted=options.unpainted,
        tile=choose_training_tile(tiles, largest.tolist(), CPU_TILE_VOXELS if on_cpu else TILE_VOXELS, context),
        context=context,
        test_tile=_choose_test_tile(network, largest.tolist(), width),
        network=options.network,
        loss=options.loss or ("cross_entropy" if options.recipe == "paper" else "dice_cross_entropy"),
        voxel_size=voxel_size,
    )
    if options.recipe == "paper":
        plan = as_in_paper(dataclasses.replace(plan, width=options.width or PAPER_WIDTH))
    return plan.with_choice(options)


def _choose_test_tile(architecture: Architecture, shape: Sequence[int], width: int) -> tuple[int, ...]:
    """Choose the tile for statistics.

    It covers the volume if that takes about 2 GB at most. If not, it is as large as that limit allows; of a large
    volume, several smaller tiles are used.
    """
    most = STATISTICS_WORK // width
    if math.prod(shape) > LARGE * most:
        most //= SAMPLED

    def input_size(length: int, size: int) -> int:
        return architecture.given_shape((length,), (size,))[0]

    return choose_largest_tile(architecture.tiles, shape, most, input_size)


def _nearly_cubic(voxel_size: Sequence[float]) -> tuple[float, ...] | None:
    """Return a working voxel size for volumes whose voxels are far from cubes; None where their own will do.

    The network sees 44 voxels on each side of its output. If the voxels of one axis are over twice as large as those
    of another, the finer axes are coarsened to half the largest size. The network then sees about as far along all
    axes.
    """
    largest = max(voxel_size)
    if largest <= MOST_ELONGATED * min(voxel_size):
        return None
    return tuple(max(float(size), float(largest) / MOST_ELONGATED) for size in voxel_size)
