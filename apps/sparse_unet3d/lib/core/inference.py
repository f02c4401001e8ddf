"""Overlap-tile inference: volumes of any size, tile by tile, with mirrored context (section 1.1, after the u-net)."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .normalisation import Statistics, by_running_statistics, by_tile_statistics, by_volume_statistics
from .tiles import CONTEXT, mirror, output_shape, tile_origins

Progress = Callable[[float], None]
"""Called with the fraction done, 0 … 1."""


def cut_tile(image: Tensor, origin: Sequence[int], tile: Sequence[int]) -> Tensor:
    """Cut an input tile out of an image, mirrored outside.

    Args:
        image: (C, *spatial).
        origin: voxel at which the tile's output starts.
        tile: input sizes.

    Returns:
        (1, C, *tile).
    """
    for axis, (start, size) in enumerate(zip(origin, tile, strict=True), start=1):
        wanted = np.arange(start - CONTEXT, start - CONTEXT + size)
        positions = torch.as_tensor(mirror(wanted, image.shape[axis]), device=image.device)
        image = image.index_select(axis, positions)
    return image.unsqueeze(0)


@torch.inference_mode()
def predict_tiles(
    network: nn.Module, image: Tensor, tile: Sequence[int], device: torch.device | str
) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    """Run the network over all tiles of an image.

    Args:
        network: with its statistics settled; on ``device``.
        image: (C, *spatial) float32.
        tile: input sizes.
        device: where the network runs.

    Yields:
        The box of the image that a tile predicts, and its logits (classes, *box). The boxes cover the image; where
        two overlap by the 4 voxels that a lattice step leaves, both have the same logits if statistics are frozen.
    """
    shape = image.shape[1:]
    for origin in tile_origins(shape, tile):
        logits = network(laid_out(cut_tile(image, origin, tile).to(device)))[0]
        ends = [
            min(start + size, length) for start, size, length in zip(origin, output_shape(tile), shape, strict=True)
        ]
        box = tuple(slice(start, end) for start, end in zip(origin, ends, strict=True))
        inside = tuple(slice(0, end - start) for start, end in zip(origin, ends, strict=True))
        yield box, logits[(slice(None), *inside)]


def laid_out(tiles: Tensor) -> Tensor:
    """Channels last in memory: measured 1.3 to 1.5 times faster forward on CPUs, in 3-D."""
    return tiles.contiguous(memory_format=torch.channels_last_3d) if tiles.ndim == 5 else tiles


def settle_statistics(
    network: nn.Module, image: Tensor, tile: Sequence[int], statistics: Statistics, device: torch.device | str
) -> nn.Module:
    """Return a copy of the network, on ``device``, that normalises this image as ``statistics`` says."""
    if statistics == "running":
        return by_running_statistics(network).to(device)
    origins = list(tile_origins(image.shape[1:], tile))
    # A single tile's own statistics are the volume's.
    if statistics == "tile" or len(origins) == 1:
        return by_tile_statistics(network).to(device)
    network = copy.deepcopy(network).to(device)
    return by_volume_statistics(network, (laid_out(cut_tile(image, o, tile).to(device)) for o in origins))


def predict_labels(
    network: nn.Module,
    image: Tensor,
    tile: Sequence[int],
    statistics: Statistics,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> NDArray[np.uint8]:
    """Segment an image; no volume of probabilities is held.

    Args:
        network: the U-Net.
        image: (C, *spatial) float32 in 0 … 1.
        tile: input sizes.
        statistics: which ones batch normalisation uses.
        device: where the network runs.
        progress: called after each tile.

    Returns:
        (*spatial) uint8, the most probable class of each voxel.
    """
    labels = np.empty(tuple(image.shape[1:]), dtype=np.uint8)
    for box, logits in _with_progress(network, image, tile, statistics, device, progress):
        labels[box] = logits.argmax(dim=0).to(torch.uint8).cpu().numpy()
    return labels


def predict_probabilities(
    network: nn.Module,
    image: Tensor,
    tile: Sequence[int],
    statistics: Statistics,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Tensor:
    """As ``predict_labels``, but return the probability of each class: (classes, *spatial) float32."""
    probabilities: Tensor | None = None
    for box, logits in _with_progress(network, image, tile, statistics, device, progress):
        if probabilities is None:
            probabilities = torch.empty((len(logits), *image.shape[1:]), dtype=torch.float32)
        probabilities[(slice(None), *box)] = logits.softmax(dim=0).cpu()
    assert probabilities is not None
    return probabilities


def _with_progress(
    network: nn.Module,
    image: Tensor,
    tile: Sequence[int],
    statistics: Statistics,
    device: torch.device | str,
    progress: Progress | None,
) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    settled = settle_statistics(network, image, tile, statistics, device)
    done, total = 0, math.prod(image.shape[1:])
    for box, logits in predict_tiles(settled, image, tile, device):
        yield box, logits
        done += math.prod(side.stop - side.start for side in box)
        if progress:
            progress(min(done / total, 1.0))
