import contextlib
import math

import numpy as np
import pytest
import torch

from lib.core.errors import InputError
from lib.core.network.architectures import ARCHITECTURES, PAPER

TILES = PAPER.tiles


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
    assert TILES.is_valid(size) == (expected is not None)
    if expected is not None:
        assert TILES.output_size(size) == expected


def test_the_papers_tile() -> None:
    assert TILES.output_shape((132, 132, 116)) == (44, 44, 28)


def test_invalid_size_is_refused_naming_the_nearest_valid_ones() -> None:
    with pytest.raises(InputError, match=r"130 .* 124 or 132"):
        TILES.output_size(130)
    with pytest.raises(InputError, match=r"40 .* take 92"):
        TILES.output_size(40)


@pytest.mark.parametrize("output", range(1, 100))
def test_input_size_is_the_smallest_that_gives_the_output(output: int) -> None:
    size = TILES.input_size(output)
    smaller = [n for n in range(1, size) if (layer_by_layer(n) or 0) >= output]
    assert layer_by_layer(size) is not None
    assert layer_by_layer(size) >= output  # type: ignore[operator]
    assert not smaller


@pytest.mark.parametrize("size", [100, 116, 132, 172])
@pytest.mark.parametrize("length", [1, 5, 12, 28, 29, 44, 45, 64, 84, 85, 245])
def test_tiles_cover_the_axis_from_the_lattice_without_a_tile_too_many(length: int, size: int) -> None:
    origins = TILES.axis_origins(length, size)
    output = TILES.output_size(size)
    assert all(origin % TILES.lattice == 0 for origin in origins)
    covered = np.zeros(length + output, dtype=bool)
    for origin in origins:
        assert origin < length
        covered[origin : origin + output] = True
    assert covered[:length].all()
    assert len(origins) == max(1, math.ceil((length - output % 8) / (output - output % 8)))


def test_the_smallest_tile_cannot_be_put_side_by_side() -> None:
    assert TILES.axis_origins(4, 92) == [0]
    with pytest.raises(InputError, match="take at least 100"):
        TILES.axis_origins(5, 92)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("padded", [False, True])
def test_the_numbers_are_those_of_the_network_itself(name: str, padded: bool) -> None:
    """Every architecture, tried out on sizes around the smallest ones."""
    architecture = ARCHITECTURES[name]
    network, tiles = architecture.build(1, 2, width=1, dims=2, padded=padded).eval(), architecture.tiles
    outputs = {}
    for size in range(1, 132):
        with contextlib.suppress(InputError, RuntimeError), torch.no_grad():
            outputs[size] = network(torch.zeros(1, 1, size, size)).shape[2]
    context = tiles.padded_context if padded else tiles.context
    assert {size - output for size, output in outputs.items()} == {2 * context}
    if padded:
        assert all(size in outputs for size in range(4 * tiles.lattice, 132, tiles.lattice))
    else:
        assert list(outputs) == list(range(tiles.smallest, 132, tiles.lattice))
