import numpy as np
import pytest
import torch
from scipy import stats

from lib.core.inference.statistics import settle_statistics
from lib.core.inference.tiling import (
    cut_tile,
    entropy,
    predict_labels,
    predict_labels_and_entropy,
    predict_probabilities,
    predict_tiles,
)
from lib.core.network.slabs import SlabNetwork
from lib.core.network.tiles import CONTEXT, given_shape, input_size, output_shape
from lib.core.network.unet import UNet
from mirrored import mirrored, mirrored_tile

pytestmark = pytest.mark.slow


def network(channels: int = 2, dims: int = 3) -> UNet:
    torch.manual_seed(0)
    return UNet(channels, 3, width=2, dims=dims)


def logits_of(net: torch.nn.Module | SlabNetwork, image: torch.Tensor, tile: tuple[int, ...]) -> torch.Tensor:
    result = torch.full((3, *image.shape[1:]), torch.nan)
    for box, logits in predict_tiles(net, image, tile, "cpu"):
        result[(slice(None), *box)] = logits
    return result


def test_cut_tile_is_numpys_mirrored_padding() -> None:
    """Along an axis that a tile covers, of one period of it."""
    image = torch.rand(2, 120, 30, 60)
    padded = mirrored(image, 150)
    tile = cut_tile(image, (8, 0, 16), (100, 124, 108))[0]
    starts = [150 - CONTEXT + origin for origin in (8, 0, 16)]
    box = tuple(slice(start, start + size) for start, size in zip(starts, (100, 64, 108), strict=True))
    torch.testing.assert_close(tile, padded[(slice(None), *box)], atol=0, rtol=0)


@pytest.mark.parametrize("shape", [(30, 41, 25), (60, 3, 9), (1, 20, 33)])
def test_frozen_statistics_make_all_tilings_agree_with_one_single_pass(shape: tuple[int, ...]) -> None:
    """Also for volumes thinner than the 44 voxels of context, which are mirrored repeatedly."""
    torch.manual_seed(1)
    image = torch.rand(2, *shape)
    frozen = settle_statistics(network(), image, (100, 108, 100), "volume", "cpu")
    tilings = [(100, 100, 100), (108, 100, 116), (116, 132, 100)]
    with torch.no_grad():
        single = frozen(mirrored_tile(image))[0][:, : shape[0], : shape[1], : shape[2]]
    assert single.std() > 0.1
    for tile in [*tilings, tuple(map(input_size, shape))]:
        torch.testing.assert_close(logits_of(frozen, image, tile), single, atol=1e-4, rtol=0)
        torch.testing.assert_close(logits_of(SlabNetwork(frozen), image, tile), single, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(36, 50, 36), (13, 70, 86), (6, 9, 3)])
def test_thin_volumes_are_computed_from_one_period(shape: tuple[int, ...]) -> None:
    """What is computed is less than the mirrored volume, and its logits are those of all of it."""
    image, tile = torch.rand(2, *shape), tuple(map(input_size, shape))
    frozen = settle_statistics(network(), image, tile, "volume", "cpu")
    given = cut_tile(image, (0, 0, 0), tile)
    assert given.shape[2:] == given_shape(shape, tile)
    assert given.numel() < 0.5 * 2 * np.prod(tile)
    with torch.no_grad():
        expected = frozen(mirrored_tile(image))
        assert expected.std() > 0.1
        torch.testing.assert_close(frozen(given, tile), expected, atol=1e-4, rtol=0)


def test_origins_off_the_lattice_would_not_agree() -> None:
    """What the lattice is for: shifted by 4 voxels, the poolings see other pairs."""
    image = torch.rand(2, 40, 40, 40)
    frozen = settle_statistics(network(), image, (132, 132, 132), "volume", "cpu")
    with torch.no_grad():
        on = frozen(cut_tile(image, (8, 0, 0), (100, 100, 100)))[0, :, :8]
        off = frozen(cut_tile(image, (4, 0, 0), (100, 100, 100)))[0, :, 4:]
    assert (on - off).abs().max() > 1e-2


def test_tiles_by_their_own_statistics_differ_at_borders_and_by_the_volumes_do_not() -> None:
    image = torch.rand(2, 60, 20, 20)
    image[:, 30:] *= 4
    tile, whole = (100, 108, 108), tuple(map(input_size, (60, 20, 20)))
    frozen = settle_statistics(network(), image, tile, "volume", "cpu")
    changing = settle_statistics(network(), image, tile, "tile", "cpu")
    torch.testing.assert_close(logits_of(frozen, image, tile), logits_of(frozen, image, whole), atol=1e-4, rtol=0)
    difference = logits_of(changing, image, tile) - logits_of(changing, image, whole)
    assert difference.abs().max() > 1e-2


@pytest.mark.parametrize("statistics", ["tile", "volume", "running", "mixed"])
def test_labels_are_the_most_probable_classes(statistics: str) -> None:
    image = torch.rand(2, 30, 30, 20)
    fractions: list[float] = []
    tile = (108, 108, 108)
    settled = settle_statistics(network(), image, tile, statistics, "cpu")
    labels = predict_labels(settled, image, tile, progress=fractions.append)
    probabilities = predict_probabilities(settled, image, tile)
    torch.testing.assert_close(probabilities.sum(dim=0), torch.ones(30, 30, 20))
    np.testing.assert_array_equal(labels, probabilities.argmax(dim=0).numpy())
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert len(fractions) == 4


def test_two_dimensions_by_the_same_code() -> None:
    image = torch.rand(1, 70, 45)
    frozen = settle_statistics(network(1, dims=2), image, (116, 132), "volume", "cpu")
    whole = logits_of(frozen, image, tuple(map(input_size, (70, 45))))
    torch.testing.assert_close(logits_of(frozen, image, (116, 132)), whole, atol=1e-4, rtol=0)
    assert output_shape((116, 132)) == (28, 44)


def test_entropy_is_scipys_as_a_part_of_the_largest() -> None:
    probabilities = torch.rand(4, 5, 6, 7).mul(6).softmax(dim=0)
    expected = 255 * stats.entropy(probabilities.numpy(), axis=0) / np.log(4)
    np.testing.assert_allclose(entropy(probabilities).numpy(), expected, atol=0.51)
    assert entropy(torch.tensor([[1.0], [0.0]])).item() == 0
    assert entropy(torch.full((3, 1), 1 / 3)).item() == 255


def test_labels_and_entropy_are_those_of_the_probabilities() -> None:
    image, tile = torch.rand(2, 30, 41, 25), (100, 108, 100)
    frozen = settle_statistics(network(), image, tile, "volume", "cpu")
    probabilities = predict_probabilities(frozen, image, tile)
    labels, uncertainty = predict_labels_and_entropy(frozen, image, tile)
    np.testing.assert_array_equal(labels, probabilities.argmax(dim=0))
    np.testing.assert_array_equal(uncertainty, entropy(probabilities))
    assert uncertainty.std() > 1
