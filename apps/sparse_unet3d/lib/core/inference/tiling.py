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

ROWS = 128
"""Rows that are read at once of an image that isn't in memory: as many as a chunk of a file often has."""


class Rows:
    """A part of an image of which a few rows along the first axis are in memory; see ``Image``.

    Tiles are cut from one end of an axis to the other, so that each row is read once, or twice at blocks' borders.
    """

    def __init__(self, image: Image, across: Box) -> None:
        """Address the part like the whole image.

        Args:
            image: (C, *spatial).
            across: what tiles need along all axes but the first.
        """
        self.shape, self._image, self._across = image.shape, image, across
        self._blocks = dict[int, Tensor]()

    def __getitem__(self, box: tuple[slice, ...]) -> Tensor:
        """Return a box (C, *box) that lies in the part."""
        channels, rows, *sides = box
        numbers = range(rows.start // ROWS, (rows.stop - 1) // ROWS + 1)
        self._blocks = {number: self._blocks[number] for number in numbers if number in self._blocks}
        across = [slice(s.start - own.start, s.stop - own.start) for s, own in zip(sides, self._across, strict=True)]
        parts = []
        for number in numbers:
            if number not in self._blocks:
                self._blocks[number] = self._read(number)
            start = number * ROWS
            here = (channels, slice(max(0, rows.start - start), rows.stop - start), *across)
            parts.append(self._blocks[number][here])
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def _read(self, number: int) -> Tensor:
        block = (slice(None), slice(number * ROWS, min((number + 1) * ROWS, self.shape[1])), *self._across)
        return self._image[block]


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

    def labels_and_entropy(
        self, progress: Progress | None = None, part: Box | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """As ``labels``, and in the same pass compute the ``entropy`` (*spatial) of the class probabilities."""
        labels = np.empty(self._sizes(part), dtype=np.uint8)
        uncertainty = np.empty_like(labels)
        for box, logits in self._with_progress(progress, part):
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

    def row_by_row(self, part: Box) -> "Tiling":
        """Return the same tiling of an image whose rows are read when a part of it needs them, see ``Rows``."""
        across = []
        for length, size, origins in zip(
            self.image.shape[1:], self._tile(part), self._origins(self._tile(part), part), strict=True
        ):
            first = origins[0] - self.tiles.context
            seen = mirror(np.arange(first, origins[-1] - self.tiles.context + size), length, self.tiles)
            across.append(slice(int(seen.min()), int(seen.max()) + 1))
        return replace(self, image=Rows(self.image, tuple(across[1:])))

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
