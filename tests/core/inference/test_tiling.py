import numpy as np
import pytest
import torch
from scipy import stats

from lib.core.inference.statistics import settle_statistics
from lib.core.inference.tiling import Tiling, entropy
from lib.core.labels import LabelScheme
from lib.core.network.architectures import PAPER
from lib.core.network.batch_norm import Statistics
from lib.core.network.evaluator import WholeTiles
from lib.core.network.mirroring import cut_tile
from lib.core.network.repetition import given_shape
from lib.core.network.unet import UNet
from lib.core.plan.plan import Plan
from mirrored import mirrored_tile

TILES = PAPER.tiles

pytestmark = pytest.mark.slow

ROUNDING = 3e-4
"""Largest difference between equal logits. Sums are rounded differently on each processor."""


def network(channels: int = 2, dims: int = 3) -> UNet:
    torch.manual_seed(0)
    return UNet(channels, 3, width=2, dims=dims)


def settled(net: UNet, image: torch.Tensor, tile: tuple[int, ...], statistics: Statistics) -> torch.nn.Module:
    channels, dims = image.shape[0], image.ndim - 1
    plan = Plan(
        LabelScheme(("one", "two"), "out"), channels, None, 2, tile, dims, statistics=statistics, test_tile=tile
    )
    return settle_statistics(net, image, plan, "cpu")


def tiled(net: torch.nn.Module, image: torch.Tensor, tile: tuple[int, ...]) -> Tiling:
    return Tiling(image, WholeTiles(net, TILES), TILES, 0, tile)


def logits_of(tiling: Tiling) -> torch.Tensor:
    result = torch.full((3, *tiling.image.shape[1:]), torch.nan)
    for box, logits in tiling.logits():
        result[(slice(None), *box)] = logits
    return result


@pytest.mark.parametrize("shape", [(30, 41, 25), (60, 3, 9), (1, 20, 33)])
def test_frozen_statistics_make_all_tilings_agree_with_one_single_pass(shape: tuple[int, ...]) -> None:
    """Also for volumes thinner than the 44 voxels of context, which are mirrored repeatedly."""
    torch.manual_seed(1)
    image = torch.rand(2, *shape)
    frozen = settled(network(), image, (100, 108, 100), "volume")
    tilings = [(100, 100, 100), (108, 100, 116), (116, 132, 100)]
    with torch.no_grad():
        single = frozen(mirrored_tile(image))[0][:, : shape[0], : shape[1], : shape[2]]
    assert single.std() > 0.1
    for tile in [*tilings, TILES.covering(shape)]:
        torch.testing.assert_close(logits_of(tiled(frozen, image, tile)), single, atol=ROUNDING, rtol=0)
        torch.testing.assert_close(
            logits_of(Tiling(image, PAPER.evaluator(frozen), TILES, 0, tile)), single, atol=ROUNDING, rtol=0
        )


@pytest.mark.parametrize("shape", [(36, 50, 36), (13, 70, 86), (6, 9, 3)])
def test_thin_volumes_are_computed_from_one_period(shape: tuple[int, ...]) -> None:
    """Slab by slab, less than the mirrored volume is computed, and the logits are those of the mirrored volume."""
    image, tile = torch.rand(2, *shape), TILES.covering(shape)
    frozen = settled(network(), image, tile, "volume")
    evaluator = PAPER.evaluator(frozen)
    with torch.no_grad():
        expected = frozen(mirrored_tile(image))[0]
    assert expected.std() > 0.1
    found = torch.cat(list(evaluator.evaluate(image, (0, 0, 0), tile)), dim=1)
    torch.testing.assert_close(found, expected, atol=ROUNDING, rtol=0)
    assert np.prod(given_shape(shape, tile, TILES)) < 0.5 * np.prod(tile)


def test_origins_off_the_lattice_would_not_agree() -> None:
    """This is why there is a lattice: shifted by 4 voxels, the poolings see other pairs."""
    image = torch.rand(2, 40, 40, 40)
    frozen = settled(network(), image, (132, 132, 132), "volume")
    with torch.no_grad():
        on = frozen(cut_tile(image, (8, 0, 0), (100, 100, 100), TILES))[0, :, :8]
        off = frozen(cut_tile(image, (4, 0, 0), (100, 100, 100), TILES))[0, :, 4:]
    assert (on - off).abs().max() > 1e-2


def test_tiles_differ_at_borders_with_their_own_statistics_but_not_with_the_volumes() -> None:
    image = torch.rand(2, 60, 20, 20)
    image[:, 30:] *= 4
    tile, whole = (100, 108, 108), TILES.covering((60, 20, 20))
    frozen = settled(network(), image, tile, "volume")
    changing = settled(network(), image, tile, "tile")
    torch.testing.assert_close(
        logits_of(tiled(frozen, image, tile)), logits_of(tiled(frozen, image, whole)), atol=ROUNDING, rtol=0
    )
    difference = logits_of(tiled(changing, image, tile)) - logits_of(tiled(changing, image, whole))
    assert difference.abs().max() > 1e-2


@pytest.mark.parametrize("statistics", ["tile", "volume", "running", "mixed"])
def test_labels_are_the_most_probable_classes(statistics: Statistics) -> None:
    image = torch.rand(2, 30, 30, 20)
    fractions: list[float] = []
    tile = (108, 108, 108)
    tiling = tiled(settled(network(), image, tile, statistics), image, tile)
    labels = tiling.labels(fractions.append)
    probabilities = tiling.probabilities()
    torch.testing.assert_close(probabilities.sum(dim=0), torch.ones(30, 30, 20))
    np.testing.assert_array_equal(labels, probabilities.argmax(dim=0).numpy())
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert len(fractions) == 4


def test_two_dimensions_by_the_same_code() -> None:
    image = torch.rand(1, 70, 45)
    frozen = settled(network(1, dims=2), image, (116, 132), "volume")
    whole = logits_of(tiled(frozen, image, TILES.covering((70, 45))))
    torch.testing.assert_close(logits_of(tiled(frozen, image, (116, 132))), whole, atol=ROUNDING, rtol=0)
    assert TILES.output_shape((116, 132)) == (28, 44)


def test_entropy_is_scipys_as_a_fraction_of_the_largest() -> None:
    probabilities = torch.rand(4, 5, 6, 7).mul(6).softmax(dim=0)
    expected = 255 * stats.entropy(probabilities.numpy(), axis=0) / np.log(4)
    np.testing.assert_allclose(entropy(probabilities).numpy(), expected, atol=0.51)
    assert entropy(torch.tensor([[1.0], [0.0]])).item() == 0
    assert entropy(torch.full((3, 1), 1 / 3)).item() == 255


def test_labels_and_entropy_are_those_of_the_probabilities() -> None:
    image, tile = torch.rand(2, 30, 41, 25), (100, 108, 100)
    frozen = settled(network(), image, tile, "volume")
    tiling = tiled(frozen, image, tile)
    probabilities = tiling.probabilities()
    labels, uncertainty = tiling.labels_and_entropy()
    np.testing.assert_array_equal(labels, probabilities.argmax(dim=0))
    np.testing.assert_array_equal(uncertainty, entropy(probabilities))
    assert uncertainty.std() > 1
