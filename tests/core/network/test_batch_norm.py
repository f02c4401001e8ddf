import itertools
from collections.abc import Iterator
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from lib.core.inference.statistics import sample_tiles, sampled_voxels, settle_statistics
from lib.core.labels import LabelScheme
from lib.core.network.architectures import PAPER
from lib.core.network.batch_norm import Statistics, by_average_statistics, by_running_statistics, by_tile_statistics
from lib.core.network.unet import UNet
from lib.core.plan.plan import Plan
from lib.core.plan.planning import STATISTICS_WORK
from mirrored import mirrored_tile


def trained_network(dims: int = 3) -> UNet:
    """A network whose running averages differ from any tile's statistics."""
    torch.manual_seed(0)
    network = UNet(1, 2, width=2, dims=dims)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d | nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network


def settled(network: UNet, image: torch.Tensor, tile: tuple[int, ...], statistics: Statistics) -> UNet:
    dims = image.ndim - 1
    plan = Plan(LabelScheme(("one",), "outside"), 1, None, 2, tile, dims, statistics=statistics, test_tile=tile)
    return settle_statistics(network, image, plan, "cpu")  # type: ignore[return-value]


def averages(network: nn.Module) -> list[torch.Tensor]:
    return [buffer.clone() for name, buffer in network.named_buffers() if "running" in name]


def test_tile_statistics_are_those_of_training_and_change_nothing() -> None:
    network, tile = trained_network(), torch.rand(1, 1, 92, 100, 92)
    before = averages(network)
    by_tile = by_tile_statistics(network)
    with torch.no_grad():
        logits = by_tile(tile)
        again = by_tile(tile)
        expected = network.train()(tile)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(again, expected)
    for kept, buffer in zip(before, averages(by_tile), strict=True):
        assert torch.equal(kept, buffer)


def smooth_image(shape: tuple[int, ...]) -> torch.Tensor:
    """(1, *shape), brighter towards one end, so that no part of it is like the whole."""
    coarse = torch.rand(1, 1, *[max(2, length // 6) for length in shape])
    mode = "trilinear" if len(shape) == 3 else "bilinear"
    image = nn.functional.interpolate(coarse, size=shape, mode=mode)[0]
    return image * torch.linspace(0.2, 1, shape[0]).view(-1, *[1] * (len(shape) - 1))


def measured(network: UNet, image: torch.Tensor) -> Iterator[tuple[nn.Module, torch.Tensor, torch.Tensor]]:
    """For each layer, the mean and variance of its input in one plain pass over an image with all its mirrored context.

    Only features whose middles lie in the image count.
    """
    seen: list[tuple[nn.Module, torch.Tensor]] = []
    hooks = [
        layer.register_forward_hook(lambda layer, given, _: seen.append((layer, given[0][0].double())))
        for layer in network.modules()
        if isinstance(layer, nn.BatchNorm3d | nn.BatchNorm2d)
    ]
    with torch.no_grad():
        network(mirrored_tile(image))
    for hook in hooks:
        hook.remove()
    # Where each layer's first feature begins: each convolution moves that by one voxel of its own size.
    begins = [(-44, 1), (-42, 2), (-38, 4), (-30, 8), (-14, 4), (-6, 2), (-2, 1)]
    lattices = [(begin + step * size, size) for begin, size in begins for step in (1, 2)]
    for (layer, features), (begin, size) in zip(seen, lattices, strict=True):
        for axis, length in enumerate(image.shape[1:], start=1):
            middles = begin + (np.arange(features.shape[axis]) + 0.5) * size
            inside = np.flatnonzero((middles >= 0) & (middles < length))
            features = features.index_select(axis, torch.as_tensor(inside))
        values = features.flatten(1)
        yield layer, values.mean(dim=1), values.var(dim=1, correction=0)


@pytest.mark.parametrize("shape", [(30, 41, 25), (60, 10, 9), (100, 70, 45), (70, 45)])
def test_volume_statistics_are_those_of_each_layers_input(shape: tuple[int, ...]) -> None:
    """Each voxel of the volume counts once, although borders are mirrored."""
    network, image = trained_network(dims=len(shape)), smooth_image(shape)
    frozen = settled(network, image, PAPER.tiles.covering(shape), "volume")
    layers = list(measured(frozen, image))
    assert len(layers) == 14
    for layer, mean, variance in layers:
        torch.testing.assert_close(layer.running_mean.double(), mean, rtol=0, atol=0.001 * float(variance.sqrt().max()))
        torch.testing.assert_close(layer.running_var.double(), variance, rtol=0.001, atol=1e-6)


def test_mixed_statistics_are_those_of_an_equal_mixture() -> None:
    """Checked at all layers, with equally many values of the moments kept from training and of the volume's moments."""
    network, image = trained_network(), smooth_image((30, 41, 25))
    frozen = settled(network, image, (132, 132, 116), "mixed")
    kept = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm3d)]
    sides = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(500)
    for trained, (layer, mean, variance) in zip(kept, measured(frozen, image), strict=True):
        moments = [(trained.running_mean.double(), trained.running_var.double()), (mean, variance)]
        values = torch.cat([m[:, None] + v.sqrt()[:, None] * sides for m, v in moments], dim=1)
        torch.testing.assert_close(layer.running_mean.double(), values.mean(dim=1), rtol=0.001, atol=0.001)
        torch.testing.assert_close(layer.running_var.double(), values.var(dim=1, correction=0), rtol=0.001, atol=1e-6)


def test_a_large_volume_is_sampled_by_tiles_that_do_not_overlap() -> None:
    """Checked at the first layer, where all of a tile's voxels but its outermost count."""
    network, image = trained_network(), smooth_image((320, 110, 110))
    tile = (92, 92, 92)
    frozen = settled(network, image, tile, "volume")
    first_convolution, first_norm = network.analysis[0][0], frozen.analysis[0][1]  # type: ignore[index,union-attr]
    with torch.no_grad():
        features = first_convolution(image[None])[0].double().flatten(1)
    assert (first_norm.running_mean.double() - features.mean(dim=1)).abs().max() < 0.1 * features.std(dim=1).max()
    starts = [origin[0] - 44 for origin in sample_tiles(image, tile, 10**9, PAPER).origins]
    assert len(starts) >= 3
    assert all(abs(one - other) >= 92 for one, other in itertools.combinations(starts, 2))
    assert all(-4 <= start <= 320 - 92 + 4 for start in starts)


@pytest.mark.parametrize(
    ("shape", "tile"),
    [
        ((40, 36, 20), (132, 124, 108)),
        ((40, 36, 20), (140, 140, 140)),
        ((400, 36, 20), (92, 124, 108)),
        ((300, 300, 300), (132, 132, 132)),
    ],
)
def test_the_voxels_of_a_sample_are_counted_without_the_image(shape: tuple[int, ...], tile: tuple[int, ...]) -> None:
    plan = Plan(LabelScheme(("one",), "outside"), 1, None, 8, tile, test_tile=tile)
    sample = sample_tiles(torch.zeros(1, *shape), tile, STATISTICS_WORK // 8, PAPER)
    assert sampled_voxels(shape, plan) == sample.given.numel()


def test_average_statistics_are_the_mean_of_the_tiles_own() -> None:
    """Checked at the first layer, against the mean over tiles of each one's mean and (unbiased) variance."""
    network = trained_network()
    tiles = [torch.rand(1, 1, 92, 92, 92) * scale for scale in (0.5, 1, 3)]
    before = averages(network)
    frozen = by_average_statistics(network, tiles)
    first_convolution, first_norm = network.analysis[0][0], frozen.analysis[0][1]  # type: ignore[index,union-attr]
    with torch.no_grad():
        features = [first_convolution(tile)[0].flatten(1).double() for tile in tiles]
    mean = torch.stack([values.mean(dim=1) for values in features]).mean(dim=0)
    variance = torch.stack([values.var(dim=1) for values in features]).mean(dim=0)
    torch.testing.assert_close(first_norm.running_mean.double(), mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first_norm.running_var.double(), variance, rtol=1e-4, atol=1e-5)
    assert not frozen.training
    for kept, buffer in zip(before, averages(network), strict=True):
        assert torch.equal(kept, buffer)


def test_frozen_statistics_do_not_depend_on_the_tile() -> None:
    """A voxel's logits are the same whatever else its tile shows."""
    network = trained_network()
    tile = torch.rand(1, 1, 100, 100, 100)
    brighter = tile.clone()
    brighter[..., 95:] = 5
    by_volume = settled(network, tile[0], (100, 100, 100), "volume")
    for frozen in (by_running_statistics(network), by_volume):
        with torch.no_grad():
            torch.testing.assert_close(frozen(tile)[..., 0], frozen(brighter)[..., 0])
    by_tile = by_tile_statistics(network)
    with torch.no_grad():
        assert not torch.allclose(by_tile(tile)[..., 0], by_tile(brighter)[..., 0], atol=1e-3)


@pytest.mark.parametrize("statistics", get_args(Statistics))
def test_a_network_without_batch_normalisation_has_no_statistics(statistics: Statistics) -> None:
    torch.manual_seed(0)
    network, image = UNet(1, 2, width=2, batch_norm=False), smooth_image((20, 12, 12))
    frozen = settled(network, image, (108, 100, 100), statistics)
    tile = torch.rand(1, 1, 92, 92, 92)
    with torch.no_grad():
        torch.testing.assert_close(frozen(tile), network(tile))
