import numpy as np
import pytest
import torch

from lib.core.network.architectures import PAPER
from lib.core.network.mirroring import cut_tile, mirror, period
from mirrored import mirrored

TILES = PAPER.tiles


@pytest.mark.parametrize("length", [1, 2, 3, 7, 40, 84, 85, 86, 89, 90])
def test_mirror_is_numpys_reflection_repeated(length: int) -> None:
    """A thin volume is first extended at its end by its mirror image."""
    positions = np.arange(-190, length + 190)
    expected = mirrored(torch.arange(length)[None], 190)[0].numpy()
    np.testing.assert_array_equal(mirror(positions, length, TILES), expected)


@pytest.mark.parametrize("length", range(1, 120))
def test_a_mirrored_volume_repeats_itself_after_its_period(length: int) -> None:
    repeat, tile = period(length, TILES), TILES.input_size(length)
    if repeat is None:
        # It would be no shorter than the tile.
        assert 2 * (length - 1) > tile - 8
        return
    assert repeat % 8 == 0
    assert repeat < tile
    assert repeat - 2 * (length - 1) < 8 or repeat == 16
    positions = np.arange(-100, 100)
    np.testing.assert_array_equal(mirror(positions, length, TILES), mirror(positions + repeat, length, TILES))


def test_cut_tile_is_numpys_mirrored_padding() -> None:
    image = torch.rand(2, 120, 30, 60)
    padded = mirrored(image, 150)
    tile = cut_tile(image, (8, 0, 16), (100, 124, 108), TILES)[0]
    starts = [150 - 44 + origin for origin in (8, 0, 16)]
    box = tuple(slice(start, start + size) for start, size in zip(starts, (100, 124, 108), strict=True))
    torch.testing.assert_close(tile, padded[(slice(None), *box)], atol=0, rtol=0)
