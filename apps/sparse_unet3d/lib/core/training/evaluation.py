"""IoU of a network on annotated voxels. Only these voxels and their surroundings are segmented."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lib.core.annotation.paint import Paint
from lib.core.annotation.slices import AnnotatedSlice
from lib.core.data.large_image import LargeImage
from lib.core.data.preparation import PreparedImage
from lib.core.device.machine import Machine
from lib.core.inference.on_own_grid import Place, around
from lib.core.inference.segmenter import Segmenter
from lib.core.network.tile_sizes import TileSizes
from lib.core.plan.plan import Plan

from .score import Part, Score

CUBE = 256
"""Side in voxels of the cubes that labelled voxels beside slices are segmented in."""


@dataclass(frozen=True, eq=False)
class ScoredRegion:
    """The voxels of an image that a network is scored on.

    Attributes:
        image: the image.
        parts: groups of voxels, each with its annotation values (n,) uint8; each voxel is in one group.
    """

    image: PreparedImage | LargeImage
    parts: Sequence[tuple[Place, NDArray[np.uint8]]]

    def work(self, tiles: TileSizes) -> int:
        """Return the number of input voxels needed to segment these voxels, with a single tile for each group.

        This is at most the number needed for the whole volume. Input for statistics of the volume isn't counted.
        """
        boxes = [around(self.image.grid, place) for place, _ in self.parts]
        apart = sum(math.prod(tiles.covering([side.stop - side.start for side in box])) for box in boxes)
        return min(apart, math.prod(tiles.covering(self.image.grid.working)))

    @classmethod
    def of(cls, image: PreparedImage | LargeImage, paint: Paint, slices: Iterable[AnnotatedSlice]) -> "ScoredRegion":
        """Group the labelled voxels so that few other voxels have to be segmented.

        Args:
            image: the image.
            paint: the labelled voxels.
            slices: planes that make one group each. All other voxels make as many groups as there are cubes of ``CUBE``
                voxels with some of them. Groups don't depend on the plan, so that scores by two plans can be compared.
        """
        places, values = paint.places()
        planes = list(dict.fromkeys(slices))
        group = np.full(len(values), len(planes))
        for number, of_axis in enumerate(_numbers(planes, paint.volume_shape)):
            np.minimum(group, of_axis[places[number]], out=group)
        rest = group == len(planes)
        cubes = np.ravel_multi_index([axis[rest] // CUBE for axis in places], [2**20] * 3)
        group[rest] += np.unique(cubes, return_inverse=True)[1]
        order = np.argsort(group, kind="stable")
        starts = np.flatnonzero(np.diff(group[order], prepend=-1))
        x, y, z = (np.split(axis[order], starts[1:]) for axis in places)
        parts = zip(zip(x, y, z, strict=True), np.split(values[order], starts[1:]), strict=True)
        return cls(image, list(parts) if len(values) else [])


def _numbers(planes: Sequence[AnnotatedSlice], shape: Sequence[int]) -> list[NDArray[np.int64]]:
    """Return the number in a list of each plane across each axis; the length of the list for planes not in it."""
    numbers = [np.full(length, len(planes)) for length in shape]
    for number, (axis, index) in enumerate(planes):
        numbers[axis][index : index + 1] = number
    return numbers


def score_network(
    network: nn.Module,
    plan: Plan,
    precision: torch.dtype,
    regions: Iterable[ScoredRegion],
    machine: Machine,
    raise_if_stopping: Callable[[], None] = lambda: None,
) -> Score:
    """Return the score over the voxels of all images together.

    Args:
        network: the network.
        plan: the plan by which it was trained.
        precision: floating point format that *Run* uses with this network.
        regions: the voxels to score.
        machine: what to compute on.
        raise_if_stopping: called between tiles; what it raises ends the work.
    """
    segmenter = Segmenter(network, plan, precision)

    def parts() -> Iterator[Part]:
        for region in regions:
            places = [place for place, _ in region.parts]
            found = segmenter.segment_at(region.image, places, machine, lambda _: raise_if_stopping())
            for labels, (place, values) in zip(found, region.parts, strict=True):
                yield place, labels, values

    return Score.of(parts(), plan.scheme)
