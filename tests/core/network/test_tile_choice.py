import itertools
import math

import pytest

from lib.core.network.architectures import PAPER
from lib.core.network.tile_choice import choose_tile, choose_training_tile

TILES = PAPER.tiles


@pytest.mark.parametrize("shape", [(30, 50, 20), (64, 128, 9)])
@pytest.mark.parametrize("max_voxels", [2_000_000, 3_000_000, 10_000_000])
def test_chosen_tile_computes_least_of_all_within_the_limit(shape: tuple[int, ...], max_voxels: int) -> None:
    def computed(tile: tuple[int, ...]) -> int:
        return math.prod(tile) * math.prod(len(TILES.axis_origins(*pair)) for pair in zip(shape, tile, strict=True))

    chosen = choose_tile(TILES, shape, math.prod, max_voxels)
    candidates = [
        tile
        for tile in itertools.product(range(100, 240, 8), repeat=3)
        if math.prod(tile) <= max_voxels and all(TILES.is_valid(n) for n in tile)
    ]
    assert math.prod(chosen) <= max_voxels
    assert computed(chosen) <= 1.05 * min(map(computed, candidates))


def test_without_memory_for_any_tile_the_smallest_is_taken() -> None:
    assert choose_tile(TILES, (300, 300, 300), math.prod, 1) == (100, 100, 100)


@pytest.mark.parametrize("shape", [(128, 128, 64), (36, 50, 36), (150, 40, 300), (10, 10, 10)])
@pytest.mark.parametrize(("most", "context"), [(1_000_000, 44), (2_250_000, 44), (450_000, 14)])
def test_training_tile_has_the_most_output_for_its_size(shape: tuple[int, ...], most: int, context: int) -> None:
    def output(tile: tuple[int, ...]) -> int:
        return math.prod(min(size - 88, length) for size, length in zip(tile, shape, strict=True))

    def voxels(tile: tuple[int, ...]) -> int:
        return math.prod(size - 88 + 2 * context for size in tile)

    chosen = choose_training_tile(TILES, shape, most, context)
    assert voxels(chosen) <= most
    candidates = [
        tile for tile in itertools.product(*(range(92, length + 96, 8) for length in shape)) if voxels(tile) <= most
    ]
    assert output(chosen) == max(map(output, candidates))


def test_training_tile_without_room_for_any_is_the_smallest() -> None:
    assert choose_training_tile(TILES, (128, 128, 128), 1000, 44) == (92, 92, 92)
