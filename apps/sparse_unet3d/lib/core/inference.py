"""Overlap-tile inference: volumes of any size, tile by tile, with mirrored context (section 1.1, after the u-net)."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .network import UNet
from .normalisation import (
    Statistics,
    by_mixed_statistics,
    by_running_statistics,
    by_tile_statistics,
    by_volume_statistics,
)
from .slabs import THICKNESS, SlabNetwork, laid_out
from .tiles import CONTEXT, cut, cut_tile, given_shape, output_shape, tile_origins

Progress = Callable[[float], None]
"""Called with the fraction done, 0 … 1."""

Box = tuple[slice, ...]


@torch.inference_mode()
def predict_tiles(
    network: SlabNetwork | nn.Module, image: Tensor, tile: Sequence[int], device: str
) -> Iterator[tuple[Box, Tensor]]:
    """Run the network over all tiles of an image.

    Args:
        network: with its statistics settled; on ``device``.
        image: (C, *spatial) float32.
        tile: input sizes.
        device: where the network runs.

    Yields:
        A box of the image, and its logits (classes, *box). The boxes cover the image; where two overlap by the 4 voxels
        that a lattice step leaves, both have the same logits if statistics are frozen.
    """
    shape = image.shape[1:]
    for origin in tile_origins(shape, tile):
        row, *across = origin
        for logits in _evaluate(network, image, origin, tile, device):
            sizes = (logits.shape[1], *output_shape(tile)[1:])
            ends = [min(a + size, length) for a, size, length in zip((row, *across), sizes, shape, strict=True)]
            box = tuple(slice(a, end) for a, end in zip((row, *across), ends, strict=True))
            row += logits.shape[1]
            if ends[0] > box[0].start:
                inside = (slice(None), *(slice(0, side.stop - side.start) for side in box))
                yield box, logits[inside]


def _evaluate(
    network: SlabNetwork | nn.Module, image: Tensor, origin: Sequence[int], tile: Sequence[int], device: str
) -> Iterator[Tensor]:
    """Yield the logits (classes, rows, ...) of a tile, in slabs or at once."""
    if isinstance(network, SlabNetwork):
        first, *across = (start - CONTEXT for start in origin)
        end = first + tile[0]
        given = given_shape(image.shape[1:], tile)[1:]
        slabs = (
            cut(image, (row, *across), (min(THICKNESS, end - row), *given)).to(device)
            for row in range(first, end, THICKNESS)
        )
        for logits in network.evaluate(slabs, tile[1:]):
            yield logits[0]
    else:
        yield network(laid_out(cut_tile(image, origin, tile).to(device)), tile)[0]


def settle_statistics(network: UNet, image: Tensor, tile: Sequence[int], statistics: Statistics, device: str) -> UNet:
    """Return a copy of the network, on ``device``, that normalises this image as ``statistics`` says.

    Args:
        network: the U-Net.
        image: (C, *spatial) float32 in 0 … 1.
        tile: input sizes of the tiles over which statistics of the volume are collected.
        statistics: which ones batch normalisation uses.
        device: ``cpu`` or ``cuda``.
    """
    placed = by_running_statistics(network).to(device)
    if statistics == "running":
        return placed
    if statistics == "tile":
        return by_tile_statistics(placed)
    tiles = ((laid_out(cut_tile(image, o, tile).to(device)), tile) for o in tile_origins(image.shape[1:], tile))
    collect = by_volume_statistics if statistics == "volume" else by_mixed_statistics
    return collect(placed, tiles)


def predict_labels(
    network: SlabNetwork | nn.Module,
    image: Tensor,
    tile: Sequence[int],
    device: str = "cpu",
    progress: Progress | None = None,
) -> NDArray[np.uint8]:
    """Segment an image; no volume of probabilities is held.

    Args:
        network: with its statistics settled; on ``device``.
        image: (C, *spatial) float32 in 0 … 1.
        tile: input sizes.
        device: where the network runs.
        progress: called as the work goes on.

    Returns:
        (*spatial) uint8, the most probable class of each voxel.
    """
    labels = np.empty(tuple(image.shape[1:]), dtype=np.uint8)
    for box, logits in _with_progress(network, image, tile, device, progress):
        labels[box] = logits.argmax(dim=0).to(torch.uint8).cpu().numpy()
    return labels


def predict_labels_and_entropy(
    network: SlabNetwork | nn.Module,
    image: Tensor,
    tile: Sequence[int],
    device: str = "cpu",
    progress: Progress | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """As ``predict_labels``, and in the same pass say how sure the network is: also ``entropy``, (*spatial)."""
    labels = np.empty(tuple(image.shape[1:]), dtype=np.uint8)
    uncertainty = np.empty_like(labels)
    for box, logits in _with_progress(network, image, tile, device, progress):
        labels[box] = logits.argmax(dim=0).to(torch.uint8).cpu().numpy()
        uncertainty[box] = entropy(logits.softmax(dim=0)).cpu().numpy()
    return labels, uncertainty


def entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy of class probabilities, as a part of the largest possible.

    Args:
        probabilities: (classes, *spatial), at least two classes.

    Returns:
        (*spatial) uint8, 0 where one class is certain, 255 where all are equally probable.
    """
    nats: Tensor = torch.special.entr(probabilities).sum(dim=0)
    return (255 / math.log(len(probabilities)) * nats).round().clamp(0, 255).to(torch.uint8)


def predict_probabilities(
    network: SlabNetwork | nn.Module,
    image: Tensor,
    tile: Sequence[int],
    device: str = "cpu",
    progress: Progress | None = None,
) -> Tensor:
    """As ``predict_labels``, but return the probability of each class: (classes, *spatial) float32."""
    probabilities: Tensor | None = None
    for box, logits in _with_progress(network, image, tile, device, progress):
        if probabilities is None:
            probabilities = torch.empty((len(logits), *image.shape[1:]), dtype=torch.float32)
        place = (slice(None), *box)
        probabilities[place] = logits.softmax(dim=0).cpu()
    assert probabilities is not None
    return probabilities


def _with_progress(
    network: SlabNetwork | nn.Module, image: Tensor, tile: Sequence[int], device: str, progress: Progress | None
) -> Iterator[tuple[Box, Tensor]]:
    done, total = 0, math.prod(image.shape[1:])
    for box, logits in predict_tiles(network, image, tile, device):
        yield box, logits
        done += math.prod(side.stop - side.start for side in box)
        if progress:
            progress(min(done / total, 1.0))
