"""Which statistics batch normalisation uses outside training (section 2).

The paper normalises by the current statistics at test time too. Four ways are offered; the default is ``mixed``.
Averages over training tiles are steady, and of the classes as they are mixed in training, but fit no volume that
differs in brightness or noise; a volume's own statistics are mostly of background. Half of each was measured to be
about as good as the better one of both, wherever that was.

==========  ============================================================================================
``tile``    each tile by its own statistics: the paper's way. Neighbouring tiles may differ at their border.
``volume``  statistics of all tiles are pooled first and then frozen: tiles fit without seams.
``running`` averages over training tiles, kept in the network. They are taken anew before it is scored:
            those that were kept during training belong to weights that have changed since.
``mixed``   as if half of a volume were training tiles: ``running`` and ``volume`` count the same.
==========  ============================================================================================
"""

import copy
from collections.abc import Collection, Iterable, Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Statistics = Literal["tile", "volume", "running", "mixed"]

OF_TRAINING: Collection[Statistics] = ("running", "mixed")
"""Those that need averages over training tiles."""

OF_VOLUME: Collection[Statistics] = ("volume", "mixed")
"""Those that need a pass over the volume before it is segmented."""

Network = TypeVar("Network", bound=nn.Module)


def _normalisations(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def _averages(layer: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return the mean and variance that are kept in a layer."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean, layer.running_var


def by_running_statistics(network: Network) -> Network:
    """Return a copy of the network that normalises by the averages kept in it."""
    return copy.deepcopy(network).eval()


def by_tile_statistics(network: Network) -> Network:
    """Return a copy of the network that normalises each input by its own statistics and keeps no averages."""
    changed = copy.deepcopy(network).eval()
    for module in _normalisations(changed):
        module.training = True
        module.track_running_stats = False
    return changed


@torch.no_grad()
def by_average_statistics(network: Network, tiles: Iterable[tuple[Tensor, Sequence[int]]]) -> Network:
    """Return a copy of the network that normalises by the averages of the tiles' own statistics.

    Args:
        network: any network with batch normalisation; its own averages are not used.
        tiles: at least one input (N, C, ...), with the sizes it stands for.
    """
    changed = copy.deepcopy(network).train()
    for module in _normalisations(changed):
        module.reset_running_stats()
        # Without momentum all tiles count the same.
        module.momentum = None
    for given, tile in tiles:
        changed(given, tile)
    return changed.eval()


class _Pooled:
    """Mean and variance of one layer's input over several tiles."""

    def __init__(self, layer: _BatchNorm) -> None:
        self.layer = layer
        self.count = 0
        self.total = torch.zeros(())
        self.squares = torch.zeros(())

    def add(self, _module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        """Add what the layer has just kept of its input, a forward hook."""
        count = inputs[0].numel() // inputs[0].shape[1]
        # In double precision, since the mean square less the squared mean may cancel.
        mean, variance = (kept.double() for kept in _averages(self.layer))
        self.count += count
        self.total = self.total.to(mean) + count * mean
        # The layer keeps the unbiased variance.
        self.squares = self.squares.to(mean) + count * (variance * (count - 1) / count + mean**2)

    def mean_and_variance(self) -> tuple[Tensor, Tensor]:
        mean = self.total / self.count
        return mean, self.squares / self.count - mean**2


@torch.no_grad()
def by_volume_statistics(network: Network, tiles: Iterable[tuple[Tensor, Sequence[int]]]) -> Network:
    """Return a copy of the network that normalises by statistics pooled over all the tiles.

    Args:
        network: any network with batch normalisation; its own averages are not used.
        tiles: inputs (N, C, ...) that together cover the volume, with the sizes they stand for. While the statistics
            are collected, each tile passes through the network normalised by its own.
    """
    collecting = copy.deepcopy(network).eval()
    pooled = []
    for layer in _normalisations(collecting):
        layer.training = True
        # So it keeps the statistics of the tile that it saw last.
        layer.momentum = 1.0
        pooled.append(_Pooled(layer))
        layer.register_forward_hook(pooled[-1].add)
    for given, tile in tiles:
        collecting(given, tile)
    frozen = by_running_statistics(network)
    for layer, statistic in zip(_normalisations(frozen), pooled, strict=True):
        for kept, collected in zip(_averages(layer), statistic.mean_and_variance(), strict=True):
            kept.copy_(collected)
    return frozen


@torch.no_grad()
def by_mixed_statistics(network: Network, tiles: Iterable[tuple[Tensor, Sequence[int]]]) -> Network:
    """Return a copy of the network that normalises by the averages kept in it and by those of the tiles.

    Mean and variance are those of values of which one half has the ones, the other half the others.

    Args:
        network: any network with batch normalisation.
        tiles: as for ``by_volume_statistics``.
    """
    mixed = by_volume_statistics(network, tiles)
    for layer, trained in zip(_normalisations(mixed), _normalisations(network), strict=True):
        (mean, variance), (trained_mean, trained_variance) = _averages(layer), _averages(trained)
        apart = (mean - trained_mean) / 2
        mean.lerp_(trained_mean, 0.5)
        variance.lerp_(trained_variance, 0.5).add_(apart**2)
    return mixed
