"""IoU of a network on annotated voxels. Only these voxels and their surroundings are segmented."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lib.core.annotation.slices import AnnotatedSlice
from lib.core.data.preparation import PreparedImage
from lib.core.device.machine import Machine
from lib.core.inference.segmenter import Place, Segmenter, around
from lib.core.labels import UNLABELLED
from lib.core.metrics import confusion, iou_per_class, mean_iou
from lib.core.network.tile_sizes import TileSizes
from lib.core.plan.plan import Plan


@dataclass(frozen=True, eq=False)
class ScoredRegion:
    """The voxels of an image that a network is scored on.

    Attributes:
        image: the image.
        parts: groups of voxels, each with its annotation values (n,) uint8; each voxel is in one group.
    """

    image: PreparedImage
    parts: Sequence[tuple[Place, NDArray[np.uint8]]]

    def work(self, tiles: TileSizes) -> int:
        """Return the number of input voxels needed to segment these voxels, with a single tile for each group.

        This is at most the number needed for the whole volume. Input for statistics of the volume isn't counted.
        """
        boxes = [around(self.image.grid, place) for place, _ in self.parts]
        apart = sum(math.prod(tiles.covering([side.stop - side.start for side in box])) for box in boxes)
        return min(apart, math.prod(tiles.covering(self.image.grid.working)))

    @classmethod
    def of(
        cls, image: PreparedImage, annotation: NDArray[np.uint8], slices: Iterable[AnnotatedSlice]
    ) -> "ScoredRegion":
        """Group the labelled voxels so that few other voxels have to be segmented.

        Args:
            image: the image.
            annotation: (X, Y, Z) on its grid.
            slices: planes that make one group each. All other voxels make one more group.
        """
        left = annotation.copy()
        parts = []
        for axis, index in slices:
            plane = np.moveaxis(left, axis, 0)[index]
            across = np.nonzero(plane)
            if len(across[0]):
                parts.append((tuple(np.insert(np.array(across), axis, index, axis=0)), plane[across]))
                plane[...] = UNLABELLED
        rest = np.nonzero(left)
        if len(rest[0]):
            parts.append((rest, left[rest]))
        return cls(image, parts)


def score_network(
    network: nn.Module,
    plan: Plan,
    precision: torch.dtype,
    regions: Iterable[ScoredRegion],
    machine: Machine,
    raise_if_stopping: Callable[[], None] = lambda: None,
) -> tuple[float, dict[str, float | None]]:
    """Return mean and per-class foreground IoU, over the voxels of all images together.

    Args:
        network: the network.
        plan: the plan by which it was trained.
        precision: floating point format that *Run* uses with this network.
        regions: the voxels to score.
        machine: what to compute on.
        raise_if_stopping: called between tiles; what it raises ends the work.
    """
    scheme = plan.scheme
    counts = np.zeros((len(scheme.classes),) * 2, dtype=np.int64)
    segmenter = Segmenter(network, plan, precision)
    for region in regions:
        places = [place for place, _ in region.parts]
        found = segmenter.segment_at(region.image, places, machine, lambda _: raise_if_stopping())
        for labels, (_, values) in zip(found, region.parts, strict=True):
            counts += confusion(labels, values, scheme)
    iou = iou_per_class(counts, scheme)
    return mean_iou(iou) or 0.0, iou
