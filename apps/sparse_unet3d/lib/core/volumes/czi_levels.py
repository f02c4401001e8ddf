"""The levels of a CZI image's pyramid: which tiles make up each plane, and whether they cover it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .czi_file import Tile

_MOST_TILES = 4096
"""Most tiles of a plane."""

_MOST_EMPTY = 64
"""How many times larger than its tiles together a plane may be."""


class Placed(NamedTuple):
    """A tile, and the pixel of its level's plane at which it begins."""

    x: int
    y: int
    tile: Tile


class Level(NamedTuple):
    """One level.

    Attributes:
        factor: how many pixels of the finest level one of its pixels spans along X, and along Y.
        shape: (X, Y, Z).
        planes: the tiles of each channel and plane; where tiles overlap, the last one counts.
        gaps: how many planes the tiles don't cover.
    """

    factor: int
    shape: tuple[int, int, int]
    planes: Mapping[tuple[int, int], Sequence[Placed]]
    gaps: int


def levels_of(tiles: Sequence[Tile]) -> list[Level]:
    """Return the levels of an image, the finest first; of the coarser ones, those that are complete.

    Raises:
        ValueError: a plane is missing in the finest level, has too many tiles, or is far larger than its tiles.
    """
    by_factor = defaultdict[int, list[Tile]](list)
    for tile in tiles:
        by_factor[round(max(tile.size) / max(tile.stored))].append(tile)
    finest = by_factor.pop(1, [])
    if not finest:
        raise ValueError("it has no tiles of the finest level")
    first = {axis: min(tile.at.get(axis, 0) for tile in finest) for axis in "XYZC"}
    width, height = (max(tile.at[a] + tile.size[i] for tile in finest) - first[a] for i, a in enumerate("XY"))
    depth, channels = (max(tile.at.get(axis, 0) for tile in finest) - first[axis] + 1 for axis in "ZC")
    levels = [_level(1, finest, first, (width, height, depth), channels)]
    for factor, coarser in sorted(by_factor.items()):
        # Programs round sizes up or down; this many pixels there are in any case.
        shape = (width // factor, height // factor, depth)
        with suppress(ValueError):
            level = _level(factor, coarser, first, shape, channels)
            if level.gaps == 0 and min(shape) > 0:
                levels.append(level)
    return levels


def _level(
    factor: int, tiles: Sequence[Tile], first: Mapping[str, int], shape: tuple[int, int, int], channels: int
) -> Level:
    """Put tiles together.

    Args:
        factor, shape: of the level.
        tiles: its tiles.
        first: along X, Y, Z and C, where the finest level begins.
        channels: how many there must be.

    Raises:
        ValueError: a plane is missing, has too many tiles, or is far larger than its tiles.
    """
    planes = defaultdict[tuple[int, int], list[Placed]](list)
    for tile in sorted(tiles, key=lambda tile: tile.at.get("M", 0)):
        x, y = (round((tile.at[axis] - first[axis]) / factor) for axis in "XY")
        planes[tile.at.get("C", 0) - first["C"], tile.at.get("Z", 0) - first["Z"]].append(Placed(x, y, tile))
    gaps = 0
    for channel, plane in ((channel, plane) for channel in range(channels) for plane in range(shape[2])):
        if (channel, plane) not in planes:
            raise ValueError(f"channel {channel} has no plane {plane}")
        placed = tuple((x, y, *tile.stored) for x, y, tile in planes[channel, plane])
        area = sum(columns * rows for _, _, columns, rows in placed)
        if len(placed) > _MOST_TILES or shape[0] * shape[1] > _MOST_EMPTY * area:
            raise ValueError(
                f"plane {plane} of channel {channel} has {shape[0]} x {shape[1]} pixels, and {len(placed)} tiles of "
                f"{area} pixels; expected at most {_MOST_TILES} tiles, that cover most of the plane"
            )
        gaps += not _cover(placed, shape[:2])
    return Level(factor, shape, planes, gaps)


# The tiles of most planes lie in the same places.
@lru_cache(maxsize=64)
def _cover(rectangles: tuple[tuple[int, int, int, int], ...], shape: tuple[int, int]) -> bool:
    """Return whether rectangles (X, Y, width, height) cover a plane of a shape (X, Y)."""
    starts = np.clip([(x, y) for x, y, _, _ in rectangles], 0, shape)
    stops = np.clip([(x + width, y + height) for x, y, width, height in rectangles], 0, shape)
    # Between neighbouring edges, all pixels are in the same rectangles.
    edges = [np.unique([0, shape[axis], *starts[:, axis], *stops[:, axis]]) for axis in range(2)]
    covered = np.zeros([len(of_axis) - 1 for of_axis in edges], bool)
    for start, stop in zip(starts, stops, strict=True):
        x, y = (slice(*np.searchsorted(edges[axis], [start[axis], stop[axis]])) for axis in range(2))
        covered[x, y] = True
    return bool(covered.all())
