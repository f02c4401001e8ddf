"""Which statistics batch normalisation uses outside training (section 2).

The paper normalises by the current statistics at test time too. There are four ways:

==========  ============================================================================================
``tile``    each tile by its own statistics: the paper's way. Neighbouring tiles may differ at their border.
``volume``  statistics of the whole volume (of a large one, of a fixed sample), then frozen: no seams.
``running`` averages over training tiles, kept in the network. They are taken again before it is scored,
            since those kept during training belong to earlier weights.
``mixed``   ``running`` and ``volume`` with equal weight, as if half of the volume were training tiles.
==========  ============================================================================================
"""

import copy
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .tile_sizes import layers

Statistics = Literal["tile", "volume", "running", "mixed"]

OF_TRAINING: Collection[Statistics] = ("running", "mixed")
"""Statistics that need averages over training tiles."""

OF_VOLUME: Collection[Statistics] = ("volume", "mixed")
"""Statistics that need a pass over a volume."""

WITHOUT_SEAMS: tuple[Statistics, ...] = ("mixed", "volume", "running")
"""Statistics that all tiles of a volume have in common. Which are best depends on the volumes."""

ROWS_AT_ONCE = 8
"""Rows of features that are converted to float32 together."""

Network = TypeVar("Network", bound=nn.Module)

Compute = Callable[[nn.Module, Tensor, Sequence[int]], Tensor]
"""``Architecture.compute``."""

Moments = tuple[Tensor, Tensor]
"""Mean and variance of each channel."""


def _normalisations(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def _kept(layer: _BatchNorm) -> Moments:
    """Return the mean and variance that are kept in a layer."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean, layer.running_var


def by_running_statistics(network: Network) -> Network:
    """Return a copy of the network that normalises by the averages kept in it."""
    return copy.deepcopy(network).eval()


def kept_statistics(network: nn.Module) -> list[Moments]:
    """Return the averages that are kept in each normalisation of a network, on the CPU, in the order of its layers."""
    return [(mean.cpu(), variance.cpu()) for mean, variance in map(_kept, _normalisations(network))]


def by_given_statistics(network: Network, statistics: Sequence[Moments]) -> Network:
    """Return a copy of the network that normalises by these statistics, see ``kept_statistics``."""
    changed = by_running_statistics(network)
    for layer, moments in zip(_normalisations(changed), statistics, strict=True):
        for buffer, value in zip(_kept(layer), moments, strict=True):
            buffer.copy_(value)
    return changed


def by_tile_statistics(network: Network) -> Network:
    """Return a copy of the network that normalises each input by its own statistics and keeps no averages."""
    changed = copy.deepcopy(network).eval()
    for module in _normalisations(changed):
        module.training = True
        module.track_running_stats = False
    return changed


@torch.no_grad()
def by_average_statistics(network: Network, tiles: Iterable[Tensor]) -> Network:
    """Return a copy of the network that normalises by the averages of the tiles' own statistics.

    Args:
        network: any network with batch normalisation; its own averages are not used.
        tiles: at least one input (N, C, ...).
    """
    changed = copy.deepcopy(network).train()
    for module in _normalisations(changed):
        module.reset_running_stats()
        # Without momentum all tiles have equal weight.
        module.momentum = None
    for tile in tiles:
        changed(tile)
    return changed.eval()


Lattice = tuple[float, int]
"""Where features lie along each axis: the offset in voxels of the first feature from the first voxel of the tile's
output, and the number of voxels that each feature stands for."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Tiles that stand for a volume when its statistics are taken.

    Attributes:
        given: (N, C, *given), the input for the tiles that ``Architecture.compute`` takes.
        tile: valid input sizes.
        origins: for each tile, the voxel of the volume at which its output starts.
        shape: the volume in voxels.
    """

    given: Tensor
    tile: tuple[int, ...]
    origins: Sequence[Sequence[int]]
    shape: Sequence[int]


def by_volume_statistics(network: Network, sample: Sample, compute: Compute) -> Network:
    """Return a copy of the network that normalises by the statistics of a volume.

    Args:
        network: any network with batch normalisation.
        sample: of the volume.
        compute: ``Architecture.compute`` of the network's architecture.
    """
    return _settled(network, sample, compute, lambda _kept, found: found)


def by_mixed_statistics(network: Network, sample: Sample, compute: Compute) -> Network:
    """Return a copy of the network that normalises by the averages kept in it and by the statistics of a volume.

    Mean and variance are those of an equal mixture of values with the averages and values with the volume's statistics.
    """
    return _settled(network, sample, compute, _mixed)


def _mixed(kept: Moments, found: Moments) -> Moments:
    (mean, variance), (other_mean, other_variance) = kept, found
    return (mean + other_mean) / 2, (variance + other_variance) / 2 + ((mean - other_mean) / 2) ** 2


@torch.no_grad()
def _settled(
    network: Network, sample: Sample, compute: Compute, combine: Callable[[Moments, Moments], Moments]
) -> Network:
    """Settle all layers in one pass: each layer gets its statistics before it computes its output.

    When the network is used, the features of each layer then have the statistics by which they are normalised.
    """
    settled = by_running_statistics(network)
    hooks = [
        layer.register_forward_pre_hook(_Settle(lattice, sample, combine))
        for layer, lattice in _lattices(settled).items()
    ]
    if hooks:
        compute(settled, sample.given, sample.tile)
    for hook in hooks:
        hook.remove()
    return settled


def _lattices(network: nn.Module) -> dict[nn.Module, Lattice]:
    """Return, for each batch normalisation of a network, where its features lie."""
    found = list(layers(network))
    context = found[-1][1]
    return {layer: (start - context, size) for layer, start, size in found if isinstance(layer, _BatchNorm)}


class _Settle:
    """Gives a layer its statistics when its input arrives."""

    def __init__(self, lattice: Lattice, sample: Sample, combine: Callable[[Moments, Moments], Moments]) -> None:
        self.lattice, self.sample, self.combine = lattice, sample, combine

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, _BatchNorm)
        kept = _kept(layer)
        found = _moments(inputs[0], self._boxes(inputs[0].shape[2:]))
        for buffer, value in zip(kept, self.combine((kept[0].double(), kept[1].double()), found), strict=True):
            buffer.copy_(value)

    def _boxes(self, sizes: Sequence[int]) -> Iterable[tuple[Any, ...]]:
        """Yield boxes of features (tile, channels, *spatial) that together hold each place of the volume once."""
        sample, (start, step) = self.sample, self.lattice
        for number, origin in enumerate(sample.origins):
            along = [
                _inside(
                    size,
                    (-begin - start) / step,
                    (length - begin - start) / step,
                    given // step if given < tile else None,
                )
                for size, begin, length, given, tile in zip(
                    sizes, origin, sample.shape, sample.given.shape[2:], sample.tile, strict=True
                )
            ]
            for box in itertools.product(*along):
                yield (number, slice(None), *box)


def _inside(size: int, low: float, high: float, period: int | None) -> list[slice]:
    """Return the features along an axis whose middles lie inside the volume.

    Args:
        size: number of features.
        low: where the volume begins, counted in features from the beginning of the first one.
        high: where the volume ends, counted in the same way.
        period: number of features after which they repeat; None if the features beyond the last one aren't known.

    Returns:
        One slice or two without overlap; in a volume smaller than a feature, the feature in its middle.
    """
    first, end = max(0, math.ceil(low - 0.5)), math.ceil(high - 0.5)
    if end <= first:
        first = math.floor((low + high) / 2)
        end = first + 1
    if period is None:
        return [slice(first, min(end, size))]
    first, end = first % period, first % period + end - first
    return [slice(first, end)] if end <= size else [slice(first, size), slice(size - period, end - period)]


def _moments(features: Tensor, boxes: Iterable[tuple[Any, ...]]) -> Moments:
    """Return mean and variance (population) of each channel of features (N, C, *spatial) in these boxes, as float64."""
    counts, means, variances = [], [], []
    for box in boxes:
        # Channels are last in memory: sums over all but the last axis are several times as fast as ``torch.var_mean``.
        for rows in torch.split(features[box].movedim(0, -1), ROWS_AT_ONCE):
            values = rows.float().flatten(end_dim=-2)
            mean = values.mean(dim=0)
            counts.append(len(values))
            means.append(mean.double())
            variances.append((values - mean).square_().mean(dim=0).double())
    weights = torch.tensor(counts, dtype=torch.float64, device=features.device).unsqueeze(1)
    weights /= weights.sum()
    every = torch.stack(means)
    mean = (weights * every).sum(dim=0)
    return mean, (weights * (torch.stack(variances) + (every - mean) ** 2)).sum(dim=0)
