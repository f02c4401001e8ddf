"""Overlap-tile inference: volumes of any size, tile by tile, with mirrored context (section 1.1, as in the u-net)."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lib.core.network.evaluator import Evaluator
from lib.core.network.mirroring import Image, mirror
from lib.core.network.tile_choice import choose_tile
from lib.core.network.tile_sizes import TileSizes

Progress = Callable[[float], None]
"""Called with the fraction done, 0 … 1."""

Box = tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class Window:
    """A box of an image that is in memory, addressed like the whole image; see ``Image``.

    Attributes:
        voxels: (C, *box).
        box: where it lies.
        shape: (C, *spatial) of the whole image.
    """

    voxels: Tensor
    box: Box
    shape: tuple[int, ...]

    def __getitem__(self, box: tuple[slice, ...]) -> Tensor:
        """Return a box (C, *box) that lies in the window."""
        channels, *sides = box
        inside = (slice(s.start - own.start, s.stop - own.start) for s, own in zip(sides, self.box, strict=True))
        here = (channels, *inside)
        return self.voxels[here]


@dataclass(frozen=True, eq=False)
class Tiling:
    """An image that a network segments tile by tile. Only the requested part of the result is held in memory.

    Attributes:
        image: (C, *spatial) float32 in 0 … 1, in memory or read when it is wanted.
        evaluator: the evaluator of the network, whose statistics are settled.
        tiles: the network's tile sizes.
        memory: bytes that the evaluator may take.
        tile: input sizes of all tiles, if each is normalised by its own statistics. None if statistics are frozen:
            labels don't depend on the tile then, and memory limits its size.
    """

    image: Image
    evaluator: Evaluator
    tiles: TileSizes
    memory: int
    tile: tuple[int, ...] | None = None

    def labels(self, progress: Progress | None = None, part: Box | None = None) -> NDArray[np.uint8]:
        """Segment the image or a part of it.

        Args:
            progress: called as the work goes on.
            part: the part of the image to segment; None for all of it.

        Returns:
            (*spatial) uint8 of the image or the part, the most probable class of each voxel.
        """
        labels = np.empty(self._sizes(part), dtype=np.uint8)
        for box, logits in self._with_progress(progress, part):
            labels[box] = logits.argmax(dim=0).to(torch.uint8).cpu().numpy()
        return labels

    def labels_and_entropy(self, progress: Progress | None = None) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Segment the image, and in the same pass compute the ``entropy`` (*spatial) of the class probabilities."""
        labels = np.empty(self._sizes(None), dtype=np.uint8)
        uncertainty = np.empty_like(labels)
        for box, logits in self._with_progress(progress, None):
            labels[box] = logits.argmax(dim=0).to(torch.uint8).cpu().numpy()
            uncertainty[box] = entropy(logits.softmax(dim=0)).cpu().numpy()
        return labels, uncertainty

    def probabilities(self, progress: Progress | None = None, part: Box | None = None) -> Tensor:
        """As ``labels``, but return the probability of each class: (classes, *spatial) float32."""
        probabilities: Tensor | None = None
        for box, logits in self._with_progress(progress, part):
            if probabilities is None:
                probabilities = torch.empty((len(logits), *self._sizes(part)), dtype=torch.float32)
            place = (slice(None), *box)
            probabilities[place] = logits.softmax(dim=0).cpu()
        assert probabilities is not None
        return probabilities

    def work(self, part: Box | None = None) -> int:
        """Return the number of input voxels needed for the image or a part of it."""
        tile = self._tile(part)
        return math.prod(tile) * math.prod(len(origins) for origins in self._origins(tile, part))

    def logits(self, part: Box | None = None) -> Iterator[tuple[Box, Tensor]]:
        """Run the network over the tiles of the image, or over those that cover a part of it.

        Yields:
            A box of the image, and its logits (classes, *box). The boxes cover the image, or the part. They may
            overlap, since tiles start on the lattice; both have the same logits there if statistics are frozen.
        """
        sides = self._sides(part)
        tile = self._tile(part)
        for row, *across in itertools.product(*self._origins(tile, part)):
            for logits in self.evaluator.evaluate(self.image, (row, *across), tile):
                starts = (row, *across)
                box = tuple(
                    slice(max(start, side.start), min(start + size, side.stop))
                    for start, size, side in zip(starts, logits.shape[1:], sides, strict=True)
                )
                row += logits.shape[1]
                if all(side.start < side.stop for side in box):
                    inside = (slice(side.start - a, side.stop - a) for side, a in zip(box, starts, strict=True))
                    here = (slice(None), *inside)
                    yield box, logits[here]

    def in_memory(self, part: Box) -> "Tiling":
        """Return the same tiling with what a part of the image depends on in memory, read once."""
        tile = self._tile(part)
        needed = []
        for length, size, origins in zip(self.image.shape[1:], tile, self._origins(tile, part), strict=True):
            first = origins[0] - self.tiles.context
            seen = mirror(np.arange(first, origins[-1] - self.tiles.context + size), length, self.tiles)
            needed.append(slice(int(seen.min()), int(seen.max()) + 1))
        box = (slice(None), *needed)
        return replace(self, image=Window(self.image[box], tuple(needed), tuple(self.image.shape)))

    def _with_progress(self, progress: Progress | None, part: Box | None) -> Iterator[tuple[Box, Tensor]]:
        """Yield boxes, counted from where the part begins, and their logits."""
        done, total = 0, math.prod(self._sizes(part))
        starts = [side.start for side in self._sides(part)]
        for box, logits in self.logits(part):
            yield tuple(slice(side.start - a, side.stop - a) for side, a in zip(box, starts, strict=True)), logits
            done += math.prod(side.stop - side.start for side in box)
            if progress:
                progress(min(done / total, 1.0))

    def _sides(self, part: Box | None) -> Box:
        return part or tuple(slice(0, length) for length in self.image.shape[1:])

    def _sizes(self, part: Box | None) -> tuple[int, ...]:
        return tuple(side.stop - side.start for side in self._sides(part))

    def _tile(self, part: Box | None) -> tuple[int, ...]:
        if self.tile:
            return self.tiles.no_larger_than_needed(self.tile, self.image.shape[1:])
        lengths = [side.stop - self._on_lattice(side.start) for side in self._sides(part)]
        return choose_tile(self.tiles, lengths, self.evaluator.peak_memory, self.memory)

    def _origins(self, tile: tuple[int, ...], part: Box | None) -> list[list[int]]:
        """Return where the outputs of tiles start along each axis, on the lattice, so that together they cover a part.

        If each tile is normalised by its own statistics, they are the tiles of the whole image that reach into the
        part. The part then gets the same labels as in the whole image.
        """
        every = []
        for length, size, side in zip(self.image.shape[1:], tile, self._sides(part), strict=True):
            output = self.tiles.output_size(size)
            # A tile that covers the whole axis starts at its beginning, where a mirrored volume repeats itself.
            if self.tile is None and output < length:
                start = self._on_lattice(side.start)
                every.append([start + origin for origin in self.tiles.axis_origins(side.stop - start, size)])
            else:
                origins = self.tiles.axis_origins(length, size)
                every.append([origin for origin in origins if origin < side.stop and origin + output > side.start])
        return every

    def _on_lattice(self, voxel: int) -> int:
        return voxel // self.tiles.lattice * self.tiles.lattice


def entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy of class probabilities, as a fraction of the largest possible entropy.

    Args:
        probabilities: (classes, *spatial), at least two classes.

    Returns:
        (*spatial) uint8, 0 where one class is certain, 255 where all are equally probable.
    """
    nats: Tensor = torch.special.entr(probabilities).sum(dim=0)
    return (255 / math.log(len(probabilities)) * nats).round().clamp(0, 255).to(torch.uint8)
