"""Dense segmentation of a volume on its own grid (both use cases of section 1)."""

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lib.core.data.large_image import LargeImage
from lib.core.data.preparation import PreparedImage
from lib.core.device.machine import Machine, is_out_of_memory
from lib.core.device.memory import return_freed_memory
from lib.core.device.precision import half_precision, precision_on
from lib.core.device.this_machine import this_machine
from lib.core.errors import InputError
from lib.core.model.model import Model
from lib.core.network.batch_norm import Moments, by_given_statistics, kept_statistics
from lib.core.network.evaluator import WholeTiles
from lib.core.network.mirroring import Image
from lib.core.plan.plan import Plan
from lib.core.volumes.source import Box as NativeBox
from lib.core.volumes.volume import Volume
from lib.core.volumes.working_grid import WorkingGrid

from .on_own_grid import (
    Labels,
    Place,
    around,
    entropy_in_box,
    labels_and_entropy,
    labels_at,
    labels_in_box,
    whole_labels,
)
from .statistics import settle_statistics
from .tiling import ROWS, Progress, Tiling

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

MEMORY = 1_700_000_000
"""Most bytes of the computer's memory for tiles of a large image. With more, little less is computed twice."""

SMALLEST_SHARE = 16
"""Out of memory, half of the memory is tried, then a quarter, … down to one part in this many."""


class Segmenter:
    """Segments volumes by one network."""

    def __init__(self, network: nn.Module, plan: Plan, precision: torch.dtype = torch.float32) -> None:
        """Prepare to segment.

        Args:
            network: built by the plan. It isn't changed, and is copied only when a volume is segmented.
            plan: the plan by which it was trained.
            precision: floating point format to compute in; float32 on devices that don't support it natively.
        """
        self.network = network
        self.plan = plan
        self.precision = precision

    @classmethod
    def of(cls, model: Model) -> "Segmenter":
        """Prepare to segment by a trained model."""
        return cls(model.network, model.plan, model.precision)

    def segment(
        self, volume: Volume, machine: Machine | None = None, progress: Progress | None = None
    ) -> NDArray[np.uint8]:
        """Segment a volume densely.

        If memory is short, smaller tiles are tried, and then the CPU.

        Args:
            volume: of any size, with the plan's number of channels.
            machine: what to compute on; None for ``this_machine``, the GPU if there is one.
            progress: called with the fraction done, 0 … 1.

        Returns:
            (X, Y, Z) uint8 on the volume's own grid: 0 background, 1 … K foreground.

        Raises:
            InputError: the volume has another number of channels than the plan, or memory is too short for the
                smallest tile.

        Examples:
            Segment the whole cell by the model that the example of ``train`` made:

            >>> from pathlib import Path
            >>> from lib.core.inference.segmenter import Segmenter
            >>> from lib.core.model.model import Model
            >>> from lib.core.volumes.reading import read_volume, write_label_map
            >>> volume, model = read_volume("cell.nii.gz"), Model.load(Path("models/model.pt"))
            >>> labels = Segmenter.of(model).segment(volume)
            >>> labels.shape, labels.dtype, model.plan.scheme.foreground
            ((40, 40, 24), dtype('uint8'), ('cell',))
            >>> write_label_map("prediction.nii.gz", labels, volume.affine)
        """
        image = PreparedImage.of(volume, self.plan)
        return self._predict(image, machine or this_machine(None), lambda tiling: whole_labels(image, tiling, progress))

    def segment_with_entropy(
        self, volume: Volume, machine: Machine | None = None, progress: Progress | None = None
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """As ``segment``, and in the same pass compute how uncertain the network is, see ``tiling.entropy``.

        Returns:
            Labels, and entropy from 0 (certain) to 255 (uniform), both (X, Y, Z) uint8 on the volume's own grid.
        """
        image = PreparedImage.of(volume, self.plan)
        machine = machine or this_machine(None)
        return self._predict(image, machine, lambda tiling: labels_and_entropy(image, tiling, progress))

    def segment_at(
        self,
        image: PreparedImage | LargeImage,
        places: Sequence[Place],
        machine: Machine,
        progress: Progress | None = None,
    ) -> list[NDArray[np.uint8]]:
        """Segment groups of voxels with the surroundings that they need, or the whole volume if that is less work.

        Args:
            image: prepared by the plan of this network. A large one is never segmented as a whole.
            places: groups of voxels, such as those of a slice.
            machine: what to compute on.
            progress: called with the fraction done of a group, or of the whole volume.

        Returns:
            For each group, the labels (n,) of its voxels, the same as from ``segment``.

        Raises:
            InputError: memory is too short for the smallest tile.
        """

        def labels(tiling: Tiling) -> list[NDArray[np.uint8]]:
            parts = [around(image.grid, place) for place in places]
            if isinstance(image, PreparedImage) and sum(map(tiling.work, parts)) >= tiling.work():
                every = whole_labels(image, tiling, progress)
                return [every[place] for place in places]
            return [labels_at(image, tiling, *pair, progress) for pair in zip(places, parts, strict=True)]

        if isinstance(image, LargeImage):
            # Training, which scores so, has a tile and the network's gradients in memory.
            return_freed_memory()
            machine = for_large_images(machine).with_half()
        return self._predict(image, machine, labels)

    def segment_boxes(
        self, image: LargeImage, boxes: Iterable[NativeBox], machine: Machine, done: Callable[[NativeBox, Labels], None]
    ) -> None:
        """Segment boxes of a volume that stays in its file.

        Args:
            image: prepared by the plan of this network.
            boxes: of the volume's voxels. Larger ones are cheaper, since each needs voxels around it.
            machine: what to compute on.
            done: called with each box and its labels, the same as from ``segment``.

        Raises:
            InputError: the image is damaged, or memory is too short for the smallest tile.
        """
        self._each(image, boxes, machine, lambda tiling, box: done(box, labels_in_box(image, tiling, box)))

    def entropy_of_boxes(
        self, image: LargeImage, boxes: Iterable[NativeBox], machine: Machine, done: Callable[[NativeBox, float], None]
    ) -> None:
        """Compute how uncertain the network is in boxes of a volume that stays in its file.

        Arguments and exceptions are those of ``segment_boxes``. ``done`` is called with each box and the mean of
        ``tiling.entropy`` in it, times the fraction of its voxels that was recorded.
        """
        self._each(image, boxes, machine, lambda tiling, box: done(box, entropy_in_box(image, tiling, box)))

    def _each(
        self,
        image: LargeImage,
        boxes: Iterable[NativeBox],
        machine: Machine,
        of_box: Callable[[Tiling, NativeBox], None],
    ) -> None:
        """Call ``of_box`` with each box; if memory is short, tiles are smaller from that box on."""
        waiting = deque(boxes)

        def go_on(tiling: Tiling) -> None:
            while waiting:
                of_box(tiling, waiting[0])
                waiting.popleft()

        self._predict(image, machine, go_on)

    def settled(self, image: LargeImage, machine: Machine) -> list[Moments]:
        """Return the statistics by which the network normalises this image; see ``by_statistics``.

        Args:
            image: prepared by the plan of this network.
            machine: what to compute on.

        Raises:
            InputError: the image is damaged, or memory is too short.
        """
        return self._try(image.name, machine, lambda machine: kept_statistics(self._settle(image, machine.device)))

    def by_statistics(self, statistics: Sequence[Moments]) -> "Segmenter":
        """Return a segmenter of one image, which needn't settle its statistics any more.

        Args:
            statistics: what ``settled`` has returned for the image, on this computer or another one.
        """
        if self.plan.statistics == "tile":
            return self
        plan = replace(self.plan, statistics="running")
        return Segmenter(by_given_statistics(self.network, statistics), plan, self.precision)

    def box_costs(self, grid: WorkingGrid, machine: Machine) -> Callable[[Sequence[int]], tuple[int, int]]:
        """Return a function that estimates the memory in bytes that ``segment_boxes`` takes for a box of these sides,
        and counts the voxels that the network sees for it.
        """
        plan, tiles = self.plan, self.plan.architecture.tiles
        evaluator = plan.architecture.evaluator(self.network, precision_on(machine.device, self.precision))
        of_tile = WholeTiles(self.network, tiles).peak_memory(plan.test_tile)

        def costs(sides: Sequence[int]) -> tuple[int, int]:
            working = [-(-side * new // own) for side, new, own in zip(sides, grid.working, grid.native, strict=True)]
            tile = tiles.covering(working)
            peak = of_tile if plan.statistics == "tile" else evaluator.peak_memory(tile)
            rows = 2 * ROWS * math.prod(tile[1:]) * plan.channels * 4
            # Probabilities, also while they are interpolated along the last axis
            back = 0 if grid.is_native else 4 * len(plan.scheme.classes) * (math.prod(working) + 3 * math.prod(sides))
            return peak + rows + back + math.prod(sides), math.prod(tile)

        return costs

    def _predict(
        self, image: PreparedImage | LargeImage, machine: Machine, predict: Callable[[Tiling], Result]
    ) -> Result:
        voxels = image if isinstance(image, LargeImage) else image.image
        return self._try(image.name, machine, lambda machine: predict(self._tiling(voxels, machine)))

    def _try(self, name: str, machine: Machine, attempt: Callable[[Machine], Result]) -> Result:
        """Call ``attempt`` with the machine; if memory is short, again with less of it, and then with the CPU."""
        least = machine.memory // SMALLEST_SHARE
        while True:
            try:
                return attempt(machine)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                logger.warning(
                    "%s: out of memory on %s with tiles for %.1f GB", name, machine.device, machine.memory / 1e9
                )
            if machine.device == "cuda":
                torch.cuda.empty_cache()
            # With each tile's own statistics, the tile doesn't depend on memory.
            if machine.memory > least and self.plan.statistics != "tile":
                machine = machine.with_half()
            elif machine.fallback:
                machine = machine.fallback
                least = machine.memory // SMALLEST_SHARE
            else:
                raise InputError(
                    f"{name}: memory doesn't suffice to segment it, even in small tiles; close other programs, "
                    "or train with a smaller --conf width"
                )

    def _tiling(self, image: Image, machine: Machine) -> Tiling:
        """Prepare the network for an image (C, *working)."""
        plan = self.plan
        tiles, precision = plan.architecture.tiles, precision_on(machine.device, self.precision)
        settled = self._settle(image, machine.device)
        if plan.statistics == "tile":
            return Tiling(image, WholeTiles(settled, tiles), tiles, machine.memory, plan.test_tile)
        return Tiling(image, plan.architecture.evaluator(settled, precision), tiles, machine.memory)

    def _settle(self, image: Image, device: str) -> nn.Module:
        with half_precision(device, precision_on(device, self.precision)):
            return settle_statistics(self.network, image, self.plan, device)


def for_large_images(machine: Machine) -> Machine:
    """Return the machine with the memory that tiles of a large image may take."""
    return machine if machine.device == "cuda" else machine.within(MEMORY)
