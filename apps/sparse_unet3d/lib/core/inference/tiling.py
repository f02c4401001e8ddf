"""Overlap-tile inference: volumes of any size, tile by tile, with mirrored context (section 1.1, after the u-net)."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lib.core.network.slabs import THICKNESS, SlabNetwork, laid_out
from lib.core.network.tiles import (
    CONTEXT,
    LATTICE,
    axis_origins,
    cut,
    cut_tile,
    given_shape,
    output_shape,
    output_size,
)

Progress = Callable[[float], None]
"""Called with the fraction done, 0 … 1."""

Box = tuple[slice, ...]


@torch.inference_mode()
def predict_tiles(
    network: SlabNetwork | nn.Module, image: Tensor, tile: Sequence[int], device: str, part: Box | None = None
) -> Iterator[tuple[Box, Tensor]]:
    """Run the network over the tiles of an image, or over those that cover a part of it.

    Args:
        network: with its statistics settled; on ``device``.
        image: (C, *spatial) float32.
        tile: input sizes.
        device: where the network runs.
        part: what is wanted of the image; None: all of it.

    Yields:
        A box of the image, and its logits (classes, *box). The boxes cover the image, or the part; where two overlap by
        the 4 voxels that a lattice step leaves, both have the same logits if statistics are frozen.
    """
    shape = image.shape[1:]
    sides = part or tuple(slice(0, length) for length in shape)
    is_frozen = isinstance(network, SlabNetwork)
    along = [tile_origins(*axis, is_frozen) for axis in zip(shape, tile, sides, strict=True)]
    for origin in itertools.product(*along):
        row, *across = origin
        for logits in _evaluate(network, image, origin, tile, device):
            sizes = (logits.shape[1], *output_shape(tile)[1:])
            starts = (row, *across)
            box = tuple(
                slice(max(start, side.start), min(start + size, side.stop))
                for start, size, side in zip(starts, sizes, sides, strict=True)
            )
            row += logits.shape[1]
            if all(side.start < side.stop for side in box):
                inside = [slice(side.start - start, side.stop - start) for side, start in zip(box, starts, strict=True)]
                here = (slice(None), *inside)
                yield box, logits[here]


def tile_origins(length: int, size: int, part: slice, is_frozen: bool) -> list[int]:
    """Return where the outputs of tiles start along an axis, on the lattice, so that together they cover a part.

    Args:
        length: voxels of the image.
        size: of the tile.
        part: what is wanted of the image.
        is_frozen: whether all tiles are normalised alike. Otherwise these are those of the whole image that reach into
            the part, so that it gets the labels that it has there.
    """
    output = output_size(size)
    # A tile that covers the whole axis repeats itself, from its beginning.
    if is_frozen and output < length:
        start = part.start // LATTICE * LATTICE
        return [start + origin for origin in axis_origins(part.stop - start, size)]
    return [origin for origin in axis_origins(length, size) if origin < part.stop and origin + output > part.start]


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


def predict_labels(
    network: SlabNetwork | nn.Module,
    image: Tensor,
    tile: Sequence[int],
    device: str = "cpu",
    progress: Progress | None = None,
    part: Box | None = None,
) -> NDArray[np.uint8]:
    """Segment an image or a part of it; no volume of probabilities is held.

    Args:
        network: with its statistics settled; on ``device``.
        image: (C, *spatial) float32 in 0 … 1.
        tile: input sizes.
        device: where the network runs.
        progress: called as the work goes on.
        part: what is wanted of the image; None: all of it.

    Returns:
        (*spatial) uint8 of the image or the part, the most probable class of each voxel.
    """
    labels = np.empty(_sizes(image, part), dtype=np.uint8)
    for box, logits in _with_progress(network, image, tile, device, progress, part):
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
    part: Box | None = None,
) -> Tensor:
    """As ``predict_labels``, but return the probability of each class: (classes, *spatial) float32."""
    probabilities: Tensor | None = None
    for box, logits in _with_progress(network, image, tile, device, progress, part):
        if probabilities is None:
            probabilities = torch.empty((len(logits), *_sizes(image, part)), dtype=torch.float32)
        place = (slice(None), *box)
        probabilities[place] = logits.softmax(dim=0).cpu()
    assert probabilities is not None
    return probabilities


def _sizes(image: Tensor, part: Box | None) -> tuple[int, ...]:
    return tuple(side.stop - side.start for side in part) if part else tuple(image.shape[1:])


def _with_progress(
    network: SlabNetwork | nn.Module,
    image: Tensor,
    tile: Sequence[int],
    device: str,
    progress: Progress | None,
    part: Box | None = None,
) -> Iterator[tuple[Box, Tensor]]:
    """Yield boxes, counted from where the part begins, and their logits."""
    done, total = 0, math.prod(_sizes(image, part))
    starts = [side.start for side in part] if part else [0] * (image.ndim - 1)
    for box, logits in predict_tiles(network, image, tile, device, part):
        yield tuple(slice(side.start - a, side.stop - a) for side, a in zip(box, starts, strict=True)), logits
        done += math.prod(side.stop - side.start for side in box)
        if progress:
            progress(min(done / total, 1.0))
