import torch
from torch import nn

from lib.core.network import UNet
from lib.core.normalisation import (
    by_average_statistics,
    by_mixed_statistics,
    by_running_statistics,
    by_tile_statistics,
    by_volume_statistics,
)


def trained_network() -> UNet:
    """A network whose running averages differ from any tile's statistics."""
    torch.manual_seed(0)
    network = UNet(1, 2, width=2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network


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


def test_volume_statistics_of_a_single_tile_are_the_tiles_own() -> None:
    network, tile = trained_network(), torch.rand(1, 1, 92, 100, 92)
    with torch.no_grad():
        frozen = by_volume_statistics(network, [(tile, tile.shape[2:])])(tile)
        own = by_tile_statistics(network)(tile)
    torch.testing.assert_close(frozen, own, atol=1e-4, rtol=1e-4)


def test_volume_statistics_pool_all_tiles() -> None:
    """Checked at the first layer against the mean and variance of all its inputs together."""
    network = trained_network()
    tiles = [torch.rand(1, 1, 92, 92, 92) * scale for scale in (0.5, 1, 3)]
    frozen = by_volume_statistics(network, [(tile, tile.shape[2:]) for tile in tiles])
    first_convolution, first_norm = network.analysis[0][0], frozen.analysis[0][1]  # type: ignore[index,union-attr]
    with torch.no_grad():
        features = torch.cat([first_convolution(tile).flatten(2) for tile in tiles], dim=2)[0].double()
    torch.testing.assert_close(first_norm.running_mean.double(), features.mean(dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first_norm.running_var.double(), features.var(dim=1, correction=0), rtol=1e-4, atol=1e-5)


def test_mixed_statistics_are_those_of_values_half_of_which_are_the_tiles() -> None:
    """Checked at all layers against as many values drawn from either side."""
    network, tile = trained_network(), torch.rand(1, 1, 92, 100, 92)
    tiles = [(tile, tile.shape[2:])]
    mixed, own = by_mixed_statistics(network, tiles), by_volume_statistics(network, tiles)
    kept = dict(network.named_buffers())
    sides = torch.tensor([-1.0, 1.0]).repeat(500)
    for name, mean in mixed.named_buffers():
        if not name.endswith("running_mean"):
            continue
        variances = name.replace("running_mean", "running_var")
        values = torch.cat(
            [
                buffers[name] + buffers[variances].sqrt() * sides[:, None]
                for buffers in (kept, dict(own.named_buffers()))
            ]
        )
        torch.testing.assert_close(mean, values.mean(dim=0), atol=1e-4, rtol=1e-4)
        variance = dict(mixed.named_buffers())[variances]
        torch.testing.assert_close(variance, values.var(dim=0, correction=0), atol=1e-4, rtol=1e-4)


def test_average_statistics_are_the_mean_of_the_tiles_own() -> None:
    """Checked at the first layer, against the mean over tiles of each one's mean and (unbiased) variance."""
    network = trained_network()
    tiles = [torch.rand(1, 1, 92, 92, 92) * scale for scale in (0.5, 1, 3)]
    before = averages(network)
    frozen = by_average_statistics(network, [(tile, tile.shape[2:]) for tile in tiles])
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
    for frozen in (by_running_statistics(network), by_volume_statistics(network, [(tile, tile.shape[2:])])):
        with torch.no_grad():
            torch.testing.assert_close(frozen(tile)[..., 0], frozen(brighter)[..., 0])
    by_tile = by_tile_statistics(network)
    with torch.no_grad():
        assert not torch.allclose(by_tile(tile)[..., 0], by_tile(brighter)[..., 0], atol=1e-3)
