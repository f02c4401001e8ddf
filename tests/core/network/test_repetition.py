import numpy as np
import pytest
import torch

from lib.core.network.architectures import PAPER
from lib.core.network.mirroring import cut
from lib.core.network.repetition import cropped, extended, given_shape
from lib.core.network.unet import UNet
from mirrored import mirrored_tile


@pytest.mark.parametrize(
    ("starts", "sizes"),
    [((0, 0, 0), (5, 3, 2)), ((1, 0, 1), (3, 3, 1)), ((4, 2, 0), (9, 1, 7)), ((40, 16, 4), (5, 3, 2))],
)
def test_a_box_is_that_of_the_repeated_features(starts: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    """Against numpy's tiling."""
    features = torch.rand(1, 2, 5, 3, 2)
    repeated = np.tile(features.numpy(), (1, 1, 12, 12, 12))
    expected = repeated[(..., *(slice(start, start + size) for start, size in zip(starts, sizes, strict=True)))]
    np.testing.assert_array_equal(cropped(features, starts, sizes).numpy(), expected)


def test_rows_are_appended_from_the_first_on_also_in_two_dimensions() -> None:
    features = torch.arange(6.0).view(1, 1, 3, 2)
    assert torch.equal(extended(features, [4, 0])[0, 0, :, 0], torch.tensor([0.0, 2, 4, 0, 2, 4, 0]))
    assert torch.equal(extended(features, [0, 0]), features)


def test_one_period_is_given_along_the_axes_that_a_tile_covers() -> None:
    assert given_shape((36, 50, 200), (124, 132, 132), PAPER.tiles) == (72, 132, 132)
    assert given_shape((36, 44, 100), (124, 132, 188), PAPER.tiles) == (72, 88, 188)


@pytest.mark.parametrize("shape", [(36, 50, 36), (13, 70, 86), (6, 9)])
def test_logits_of_repeated_input_are_those_of_the_whole_tile(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = UNet(2, 3, width=2, dims=len(shape)).eval()
    image, tile = torch.rand(2, *shape), PAPER.tiles.covering(shape)
    given = PAPER.given_shape(shape, tile)
    assert given != tile
    with torch.no_grad():
        expected = network(mirrored_tile(image))
        found = PAPER.compute(network, cut(image, [-44] * len(shape), given, PAPER.tiles), tile)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
