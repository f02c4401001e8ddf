import pytest
import torch
from torch import nn

from lib.core.network import UNet
from lib.core.tiles import output_shape


def parameters_without_normalisation(network: nn.Module) -> int:
    """Count as the paper must have counted: scale and shift of batch normalisation left out."""
    normalised = {
        id(p) for m in network.modules() if isinstance(m, nn.BatchNorm2d | nn.BatchNorm3d) for p in m.parameters()
    }
    return sum(p.numel() for p in network.parameters() if id(p) not in normalised)


def test_the_papers_network_has_the_papers_number_of_parameters() -> None:
    with torch.device("meta"):
        network = UNet(channels=3, classes=3)
    assert parameters_without_normalisation(network) == 19_069_955
    assert sum(p.numel() for p in network.parameters()) == 19_069_955 + 4672


def test_the_papers_tile_gives_the_papers_output() -> None:
    with torch.device("meta"):
        logits = UNet(channels=3, classes=3)(torch.zeros(1, 3, 132, 132, 116))
    assert logits.shape == (1, 3, 44, 44, 28)


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize(
    ("dims", "channels", "classes", "tile"),
    [(3, 1, 2, (92, 100, 108)), (3, 4, 5, (100, 92, 92)), (2, 2, 3, (92, 188)), (2, 1, 2, (100, 100))],
)
def test_shapes(dims: int, channels: int, classes: int, tile: tuple[int, ...], batch_norm: bool) -> None:
    network = UNet(channels, classes, width=2, dims=dims, batch_norm=batch_norm)
    logits = network(torch.rand(1, channels, *tile))
    assert logits.shape == (1, classes, *output_shape(tile))
    assert batch_norm == any("Norm" in type(m).__name__ for m in network.modules())


def test_features_keep_their_variance_without_normalisation() -> None:
    """An untrained network without batch normalisation neither explodes nor dies out."""
    torch.manual_seed(0)
    network = UNet(3, 3, width=8, batch_norm=False)
    with torch.no_grad():
        logits = network(torch.randn(1, 3, 100, 100, 100))
    assert 0.1 < float(logits.std()) < 10


@pytest.mark.parametrize("dims", [2, 3])
def test_an_untrained_up_convolution_is_nearest_neighbour_up_sampling(dims: int) -> None:
    """Otherwise each voxel of eight begins with weights of its own, and regions like none in training show dots."""
    torch.manual_seed(0)
    network = UNet(1, 2, width=2, dims=dims)
    for up in network.up:
        features = torch.randn(1, up.in_channels, *(4,) * dims)
        with torch.no_grad():
            found = up(features)
            coarse = found[(..., *[slice(None, None, 2)] * dims)]
            expected = nn.functional.interpolate(coarse, scale_factor=2, mode="nearest")
        torch.testing.assert_close(found, expected)
        # As much as comes in, goes on.
        assert 0.7 < float(found.std()) < 1.4
