"""An image that stays in its file. Each box of it is prepared for the network when it is read."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lib.core.errors import InputError
from lib.core.plan.plan import Plan
from lib.core.volumes.boxes import boxes, grown
from lib.core.volumes.intensity import Range, sample_step, scaled
from lib.core.volumes.ome_zarr import OmeZarrSource
from lib.core.volumes.source import Box
from lib.core.volumes.working_grid import WorkingGrid

from .preparation import check_channels

SURVEYED = 1 << 24
"""Most voxels that are read at once to find the range of intensities."""

Surveyed = tuple[list[Any], tuple[Range, ...]]
"""The least value, and the range of the intensities, of each channel of an image."""


class LargeImage:
    """An image that is read box by box; its voxels are those of ``PreparedImage``.

    It is what the ``Image`` that tiles are cut from may be: ``shape`` is (C, *working), and ``image[:, x, y, z]`` with
    slices is a box of it, float32 in 0 … 1.

    Attributes:
        name: what messages call it.
        grid: the volume's own grid and the working grid.
        surveyed: what scaling depends on.
        ranges: of the intensities of each channel.
    """

    def __init__(
        self,
        source: OmeZarrSource,
        plan: Plan,
        progress: Callable[[float], None] | None = None,
        surveyed: Surveyed | None = None,
    ) -> None:
        """Read all voxels once, for the range of intensities, unless it is known.

        Args:
            source: the image.
            plan: the plan that it is prepared by.
            progress: called with the fraction that is read.
            surveyed: what ``survey`` has found in this image; None if nobody has read it yet.

        Raises:
            InputError: another number of channels than the plan; damaged, infinite values, or a channel in which all
                values are NaN.
        """
        geometry = source.geometry
        check_channels(geometry.channels, plan)
        self.source, self.name = source, geometry.name
        self.grid = WorkingGrid.of(geometry.shape, geometry.spacing, plan.spacing)
        self.shape = (geometry.channels, *self.grid.working)
        self.surveyed = surveyed or survey(source, progress)
        self._least, self.ranges = self.surveyed

    def __getitem__(self, box: tuple[slice, ...]) -> Tensor:
        """Read and prepare a box (C, *box) of working voxels.

        Raises:
            InputError: damaged.
        """
        _, x, y, z = box
        return torch.as_tensor(self.grid.image_box(self._prepared, (x, y, z)))

    def outside(self, box: Box) -> NDArray[np.bool_] | None:
        """Return which voxels of a box of the volume were not recorded (NaN in all channels); None if none can be."""
        if self.source.geometry.dtype.kind != "f":
            return None
        return np.asarray(np.isnan(self.source.read(box)).all(axis=0))

    def _prepared(self, box: Box) -> NDArray[np.float32]:
        array = self.source.read(box)
        if array.dtype.kind == "f":
            for channel, least in zip(array, self._least, strict=True):
                channel[np.isnan(channel)] = least
        return scaled(array, self.ranges)


def survey(source: OmeZarrSource, progress: Callable[[float], None] | None = None) -> Surveyed:
    """Read all voxels of an image, for the least value and the range of intensities of each channel.

    Args:
        source: the image.
        progress: called with the fraction that is read.

    Raises:
        InputError: damaged, infinite values, or a channel in which all values are NaN.
    """
    geometry, done = source.geometry, 0
    channels = [_Survey(geometry.shape) for _ in range(geometry.channels)]
    for box in boxes(geometry.shape, grown(source.chunk, geometry.shape, SURVEYED)):
        for number, (channel, values) in enumerate(zip(channels, source.read(box), strict=True)):
            channel.add(values, box, f"{geometry.name}: channel {number}")
        done += math.prod(side.stop - side.start for side in box)
        if progress:
            progress(done / math.prod(geometry.shape))
    for number, channel in enumerate(channels):
        if channel.least is None:
            raise InputError(
                f"{geometry.name}: all values of channel {number} are NaN; expected an image, export it again"
            )
    return [channel.least for channel in channels], tuple(channel.range() for channel in channels)


class _Survey:
    """What the range of a channel's intensities depends on, gathered box by box."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self.step = sample_step(math.prod(shape))
        self.sample: list[NDArray[Any]] = []
        self.least: Any = None
        self.greatest: Any = None

    def add(self, values: NDArray[Any], box: Box, name: str) -> None:
        """Add a box (X, Y, Z).

        Raises:
            InputError: infinite values.
        """
        self.sample.append(values[_sampled(self.shape, box, self.step)])
        if values.dtype.kind == "f":
            if np.isinf(values).any():
                x, y, z = (int(at) + side.start for at, side in zip(np.argwhere(np.isinf(values))[0], box, strict=True))
                raise InputError(f"{name}: the value of voxel {(x, y, z)} is infinite; replace it by a real number")
            if np.isnan(values).all():
                return
        least, greatest = np.nanmin(values), np.nanmax(values)
        self.least = least if self.least is None else min(self.least, least)
        self.greatest = greatest if self.greatest is None else max(self.greatest, greatest)

    def range(self) -> Range:
        sample = np.concatenate(self.sample)
        if sample.dtype.kind == "f":
            sample[np.isnan(sample)] = self.least
        return Range.of(sample, lambda: (self.least, self.greatest))


def _sampled(shape: tuple[int, int, int], box: Box, step: int) -> tuple[NDArray[np.int64], ...]:
    """Return the places in a box of every n-th voxel of a volume in C order."""
    (x, y), z = (np.arange(side.start, side.stop) for side in box[:2]), box[2]
    rows = ((x[:, None] * shape[1] + y) * shape[2] + z.start).ravel()
    first = -rows % step
    count = np.maximum(0, -(-(z.stop - z.start - first) // step))
    row = np.repeat(np.arange(len(rows)), count)
    # The number of each sampled voxel within its row.
    number = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    return row // len(y), row % len(y), first[row] + number * step
