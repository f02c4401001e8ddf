"""Scale the intensities of each channel to 0 … 1 by percentiles of its values."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (0.5, 99.5)
"""Percentiles of a channel that become 0 and 1."""

CONSTANT_SHARE = 0.05
"""A channel's most frequent value is left out of the percentiles if at least this fraction of the channel has it."""

LEAST_REST = 0.01
"""At least this fraction of a channel must have other values. Otherwise, the most frequent value counts too."""

SAMPLE = 1 << 22
"""Most values of a channel from which the percentiles are computed."""


def scale_intensity(array: NDArray[Any]) -> NDArray[np.float32]:
    """Scale each channel so that its ``PERCENTILES`` become 0 and 1, and clip values beyond them.

    If one value makes up a large part of a channel, as after masking or padding, the percentiles leave it out. If a
    channel is constant between the percentiles (few bright voxels on an empty background), its minimum and maximum
    become 0 and 1. A constant channel becomes 0.

    MONAI's ``ScaleIntensityRangePercentiles`` isn't used: it includes the masked value, which costs contrast, doesn't
    take integers, and copies the whole image several times.

    Args:
        array: (C, X, Y, Z), integers or finite floats.

    Returns:
        (C, X, Y, Z), values in [0, 1].
    """
    return scaled(array, ranges_of(array))


def ranges_of(array: NDArray[Any]) -> "tuple[Range, ...]":
    """Return the range of each channel of an image (C, X, Y, Z), see ``scale_intensity``."""
    return tuple(_range_of(channel) for channel in array)


def _range_of(channel: NDArray[Any]) -> "Range":
    return Range.of(_sample(channel), lambda: (channel.min(), channel.max()))


@dataclass(frozen=True)
class Range:
    """The values of a channel that become 0 and 1, both halved: the full range of values could overflow.

    They are equal if the channel is constant.
    """

    low: float
    high: float

    @classmethod
    def of(cls, sample: NDArray[Any], extremes: Callable[[], tuple[Any, Any]]) -> "Range":
        """Choose the range of a channel.

        Args:
            sample: every n-th value of the channel, see ``sample_step``, in any order.
            extremes: returns the least and the greatest of all its values. It is only called if the sample is constant
                between the percentiles.
        """
        values = np.sort(sample)
        starts = np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1])
        lengths = np.diff(starts, append=len(values))
        longest = int(lengths.argmax())
        if CONSTANT_SHARE <= lengths[longest] / len(values) <= 1 - LEAST_REST:
            constant = float(values[starts[longest]]) / 2
            rest = np.delete(values, slice(starts[longest], starts[longest] + lengths[longest]))
            low, high = _percentiles(rest)
            if low < high:
                return cls(*_with_constant(low, high, constant, float(rest[0]) / 2, float(rest[-1]) / 2))
        low, high = _percentiles(values)
        if low == high:
            low, high = (float(value) / 2 for value in extremes())
        return cls(low, high)


def scaled(array: NDArray[Any], ranges: Sequence[Range]) -> NDArray[np.float32]:
    """Scale channels (C, X, Y, Z), or a box of them, by their ranges; values beyond them are clipped."""
    scaled = np.zeros(array.shape, dtype=np.float32)
    for channel, result, found in zip(array, scaled, ranges, strict=True):
        if found.low == found.high:
            continue
        # In double precision until the offset is subtracted; slice by slice, since a volume of doubles is large.
        for values, to in zip(channel, result, strict=True):
            halves = np.multiply(values, 0.5, dtype=np.float64)
            np.clip(halves, found.low, found.high, out=halves)
            halves -= found.low
            np.divide(halves, found.high - found.low, out=to, casting="unsafe")
    return scaled


def _with_constant(low: float, high: float, constant: float, least: float, greatest: float) -> tuple[float, float]:
    """Widen a range towards the constant if the constant and many other values would otherwise both become 0, or 1.

    This happens if the end of the range is itself a frequent value, as in images with few different values.
    """
    margin = (high - low) / 2
    if constant < low == least:
        return max(constant, low - margin), high
    if constant > high == greatest:
        return low, min(constant, high + margin)
    return low, high


def _percentiles(values: NDArray[Any]) -> tuple[float, float]:
    """Return half the ``PERCENTILES`` of sorted values, linearly interpolated."""
    found = []
    for percentile in PERCENTILES:
        place = percentile / 100 * (len(values) - 1)
        below = math.floor(place)
        pair = values[[below, min(below + 1, len(values) - 1)]].astype(np.float64) / 2
        found.append(float(pair[0] + (place - below) * (pair[1] - pair[0])))
    return found[0], found[1]


def _sample(channel: NDArray[Any]) -> NDArray[Any]:
    """Return every n-th value of a channel (X, Y, Z), always the same ones."""
    return channel.reshape(-1)[:: sample_step(channel.size)]


def sample_step(size: int) -> int:
    """Return the n of "every n-th value" from which percentiles are computed, in C order of X, Y, Z.

    Args:
        size: number of a channel's values.
    """
    step = -(-size // SAMPLE)
    # A step that shares a factor with the size could skip whole planes.
    while math.gcd(step, size) > 1:
        step += 1
    return step
