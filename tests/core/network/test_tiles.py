import itertools
import math

import numpy as np
import pytest
import torch

from lib.core.errors import InputError
from lib.core.network import tiles
from mirrored import mirrored


def layer_by_layer(size: int) -> int | None:
    """Follow a size through the network of figure 2; None where a pooling or a convolution doesn't fit."""
    for _ in range(3):
        size -= 4
        if size <= 0 or size % 2:
            return None
        size //= 2
    size -= 4
    for _ in range(3):
        if size <= 0:
            return None
        size = 2 * size - 4
    return size if size > 0 else None


@pytest.mark.parametrize("size", range(1, 400))
def test_sizes_agree_with_walking_through_the_layers(size: int) -> None:
    expected = layer_by_layer(size)
    assert tiles.is_valid(size) == (expected is not None)
    if expected is not None:
        assert tiles.output_size(size) == expected


def test_the_papers_tile() -> None:
    assert tiles.output_shape((132, 132, 116)) == (44, 44, 28)


def test_invalid_size_is_refused_naming_the_nearest_valid_ones() -> None:
    with pytest.raises(InputError, match=r"130 .* 124 or 132"):
        tiles.output_size(130)
    with pytest.raises(InputError, match=r"40 .* take 92"):
        tiles.output_size(40)


@pytest.mark.parametrize("output", range(1, 100))
def test_input_size_is_the_smallest_that_gives_the_output(output: int) -> None:
    size = tiles.input_size(output)
    smaller = [n for n in range(1, size) if (layer_by_layer(n) or 0) >= output]
    assert layer_by_layer(size) is not None
    assert layer_by_layer(size) >= output  # type: ignore[operator]
    assert not smaller


@pytest.mark.parametrize("size", [100, 116, 132, 172])
@pytest.mark.parametrize("length", [1, 5, 12, 28, 29, 44, 45, 64, 84, 85, 245])
def test_tiles_cover_the_axis_from_the_lattice_without_a_tile_too_many(length: int, size: int) -> None:
    origins = tiles.axis_origins(length, size)
    output = tiles.output_size(size)
    assert all(origin % tiles.LATTICE == 0 for origin in origins)
    covered = np.zeros(length + output, dtype=bool)
    for origin in origins:
        assert origin < length
        covered[origin : origin + output] = True
    assert covered[:length].all()
    assert len(origins) == max(1, math.ceil((length - output % 8) / (output - output % 8)))


def test_the_smallest_tile_cannot_be_put_side_by_side() -> None:
    assert tiles.axis_origins(4, 92) == [0]
    with pytest.raises(InputError, match="take at least 100"):
        tiles.axis_origins(5, 92)


@pytest.mark.parametrize("shape", [(30, 50, 20), (64, 128, 9)])
@pytest.mark.parametrize("max_voxels", [2_000_000, 3_000_000, 10_000_000])
def test_chosen_tile_computes_least_of_all_within_the_limit(shape: tuple[int, ...], max_voxels: int) -> None:
    def computed(tile: tuple[int, ...]) -> int:
        return math.prod(tiles.given_shape(shape, tile)) * math.prod(
            len(tiles.axis_origins(*pair)) for pair in zip(shape, tile, strict=True)
        )

    chosen = tiles.choose_tile(shape, math.prod, max_voxels)
    candidates = [
        tile
        for tile in itertools.product(range(100, 240, 8), repeat=3)
        if math.prod(tile) <= max_voxels and all(tiles.is_valid(n) for n in tile)
    ]
    assert math.prod(chosen) <= max_voxels
    assert computed(chosen) <= 1.05 * min(map(computed, candidates))


def test_without_memory_for_any_tile_the_smallest_is_taken() -> None:
    assert tiles.choose_tile((300, 300, 300), math.prod, 1) == (100, 100, 100)


@pytest.mark.parametrize("shape", [(128, 128, 64), (36, 50, 36), (150, 40, 300), (10, 10, 10)])
@pytest.mark.parametrize(("most", "context"), [(1_000_000, 44), (2_250_000, 44), (450_000, 14)])
def test_training_tile_has_the_most_output_for_what_is_given(shape: tuple[int, ...], most: int, context: int) -> None:
    def output(tile: tuple[int, ...]) -> int:
        return math.prod(min(size - 88, length) for size, length in zip(tile, shape, strict=True))

    chosen = tiles.choose_training_tile(shape, most, context)
    assert math.prod(tiles.given_shape(shape, chosen, context)) <= most
    candidates = [
        tile
        for tile in itertools.product(*(range(92, length + 96, 8) for length in shape))
        if math.prod(tiles.given_shape(shape, tile, context)) <= most
    ]
    assert output(chosen) == max(map(output, candidates))


def test_training_tile_without_room_for_any_is_the_smallest() -> None:
    assert tiles.choose_training_tile((128, 128, 128), 1000, 44) == (92, 92, 92)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 40, 84, 85, 86, 89, 90])
def test_mirror_is_numpys_reflection_repeated(length: int) -> None:
    """Of a thin volume, together with what it is mirrored by behind its end first."""
    positions = np.arange(-190, length + 190)
    expected = mirrored(torch.arange(length)[None], 190)[0].numpy()
    np.testing.assert_array_equal(tiles.mirror(positions, length), expected)


@pytest.mark.parametrize("length", range(1, 120))
def test_a_mirrored_volume_repeats_itself_after_its_period(length: int) -> None:
    period, tile = tiles.period(length), tiles.input_size(length)
    if period is None:
        # It would be no shorter than the tile.
        assert 2 * (length - 1) > tile - 8
        return
    assert period % 8 == 0
    assert period < tile
    assert period - 2 * (length - 1) < 8 or period == 16
    positions = np.arange(-100, 100)
    np.testing.assert_array_equal(tiles.mirror(positions, length), tiles.mirror(positions + period, length))


def test_one_period_is_given_along_the_axes_that_a_tile_covers() -> None:
    assert tiles.given_shape((36, 50, 200), (124, 132, 132)) == (72, 132, 132)
    assert tiles.given_shape((36, 44, 100), (124, 132, 188)) == (72, 88, 188)


def test_less_context_is_given_if_wanted_unless_a_period_is_shorter() -> None:
    assert tiles.given_shape((200, 44, 12), (132, 132, 100), context=14) == (72, 72, 24)
