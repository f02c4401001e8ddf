"""An image that stays in its file, with the range of its intensities."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .boxes import boxes, grown
from .intensity import Range, sample_step
from .ome_zarr import OmeZarrSource
from .reading import has_infinite_value, is_nothing_but_nan
from .source import Box

SURVEYED = 1 << 24
"""Most voxels that are read at once to find the range of intensities."""

Surveyed = tuple[list[Any], tuple[Range, ...]]
"""The least value, and the range of the intensities, of each channel of an image."""


class StoredVolume:
    """An image whose boxes are read when they are wanted; their voxels are those of the ``Volume``.

    Attributes:
        source: where it is read from.
        geometry: its grid, its channels and its name.
        surveyed: what scaling depends on.
        ranges: of the intensities of each channel.
    """

    def __init__(
        self,
        source: OmeZarrSource,
        progress: Callable[[float], None] | None = None,
        surveyed: Surveyed | None = None,
    ) -> None:
        """Read all voxels once, for the range of intensities, unless it is known.

        Args:
            source: the image.
            progress: called with the fraction that is read.
            surveyed: what ``survey`` has found in this image; None if nobody has read it yet.

        Raises:
            InputError: damaged, infinite values, or a channel in which all values are NaN.
        """
        self.source, self.geometry = source, source.geometry
        self.surveyed = surveyed or survey(source, progress)
        self._least, self.ranges = self.surveyed

    @property
    def shape(self) -> tuple[int, int, int]:
        """(X, Y, Z)."""
        return self.geometry.shape

    @property
    def channels(self) -> int:
        """C."""
        return self.geometry.channels

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Size of a voxel along X, Y, Z in mm."""
        return self.geometry.spacing

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.geometry.name

    def read(self, box: Box) -> NDArray[Any]:
        """Read a box (C, X, Y, Z); NaN is replaced by the least value of the channel.

        Raises:
            InputError: damaged.
        """
        array = self.source.read(box)
        if array.dtype.kind == "f":
            for channel, least in zip(array, self._least, strict=True):
                channel[np.isnan(channel)] = least
        return array

    def outside_in(self, box: Box) -> NDArray[np.bool_] | None:
        """Return which voxels of a box were not recorded (NaN in all channels); None if none can be.

        Raises:
            InputError: damaged.
        """
        if self.geometry.dtype.kind != "f":
            return None
        return np.asarray(np.isnan(self.source.read(box)).all(axis=0))


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
            channel.add(values, box, geometry.name, number)
        done += math.prod(side.stop - side.start for side in box)
        if progress:
            progress(done / math.prod(geometry.shape))
    for number, channel in enumerate(channels):
        if channel.least is None:
            raise is_nothing_but_nan(geometry.name, number)
    return [channel.least for channel in channels], tuple(channel.range() for channel in channels)


class _Survey:
    """What the range of a channel's intensities depends on, gathered box by box."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self.step = sample_step(math.prod(shape))
        self.sample: list[NDArray[Any]] = []
        self.least: Any = None
        self.greatest: Any = None

    def add(self, values: NDArray[Any], box: Box, name: str, number: int) -> None:
        """Add a box (X, Y, Z) of an image and channel, which messages name.

        Raises:
            InputError: infinite values.
        """
        self.sample.append(values[_sampled(self.shape, box, self.step)])
        if values.dtype.kind == "f":
            if np.isinf(values).any():
                first = np.argwhere(np.isinf(values))[0]
                raise has_infinite_value(name, number, first + [side.start for side in box])
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
