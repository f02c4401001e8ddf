"""Compute input that repeats itself only once, with the paper's network. Thin volumes are then cheap to segment.

A thin volume, mirrored at its borders, repeats itself within a tile, and so do all features that a network computes
from it. If the tile covers an axis, one ``period`` along it is given. Features are held once, and repeated where a
layer needs more of them. A volume of 36×50×36 voxels then takes a quarter of the input voxels.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from .crop import channels_last, layout_of
from .mirroring import period
from .tile_sizes import TileSizes, crops, shrinkage
from .unet import UNet


def given_shape(shape: Sequence[int], tile: Sequence[int], tiles: TileSizes) -> tuple[int, ...]:
    """Return the size of the input to compute: one period along each axis that the tile covers and that has a period.

    Along the other axes it is the tile's size.

    Args:
        shape: the volume in voxels.
        tile: valid input sizes.
        tiles: the network's.
    """
    return tuple(
        (period(length, tiles) or size) if tiles.output_size(size) >= length else size
        for length, size in zip(shape, tile, strict=True)
    )


def extended(features: Tensor, rows: Sequence[int]) -> Tensor:
    """Append ``rows`` rows to features (N, C, *spatial) along each spatial axis, repeating them from the first on."""
    return cropped(features, [0] * len(rows), [size + n for size, n in zip(features.shape[2:], rows, strict=True)])


def cropped(features: Tensor, starts: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Cut a box out of features (N, C, *spatial); where it reaches beyond their end, they repeat themselves.

    The channels of the box are last in memory.
    """
    if not any(starts) and tuple(sizes) == features.shape[2:]:
        return channels_last(features)
    shape = (*features.shape[:2], *sizes)
    box = torch.empty(shape, dtype=features.dtype, device=features.device, memory_format=layout_of(features))
    along = [_pieces(*axis) for axis in zip(features.shape[2:], starts, sizes, strict=True)]
    for pieces in itertools.product(*along):
        source, target = zip(*pieces, strict=True)
        there, here = (..., *source), (..., *target)
        box[here] = features[there]
    return box


def _pieces(length: int, start: int, size: int) -> list[tuple[slice, slice]]:
    """Return which slices of repeated features fill which slices of a box, along an axis."""
    pieces, done = [], 0
    while done < size:
        first = (start + done) % length
        count = min(length - first, size - done)
        pieces.append((slice(first, first + count), slice(done, done + count)))
        done += count
    return pieces


def compute_repeated(network: UNet, given: Tensor, tile: Sequence[int]) -> Tensor:
    """Compute the logits of a tile from its given input; the layers' hooks run as in ``network(...)``.

    Args:
        network: the paper's network, not padded.
        given: (N, C, *given), see ``given_shape``.
        tile: valid input sizes of the tile that the input stands for.

    Returns:
        (N, classes, *output), the logits of the whole tile.
    """
    repeats = [size < wanted for size, wanted in zip(given.shape[2:], tile, strict=True)]
    sizes, features, shortcuts = list(tile), given, list[Tensor]()
    for level, step in enumerate(network.analysis):
        if level:
            features, sizes = network.pool(features), [size // 2 for size in sizes]
        lost = shrinkage(step.modules())
        features = step(extended(features, [lost * repeat for repeat in repeats]))
        sizes = [size - lost for size in sizes]
        shortcuts.append(features)
    features = cropped(shortcuts.pop(), [0] * len(sizes), sizes)
    paths = ([step.modules() for step in path] for path in (network.analysis, network.synthesis))
    for crop, up, step in zip(reversed(crops(*paths)), network.up, network.synthesis, strict=True):
        features = up(features)
        shortcut = cropped(shortcuts.pop(), [crop] * len(sizes), features.shape[2:])
        features = step(channels_last(torch.cat([features, shortcut], dim=1)))
    logits: Tensor = network.classify(features)
    return logits
