"""Intensities: each channel is scaled to 0 … 1 by its own values, robustly."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (0.5, 99.5)
"""Percentiles of a channel that become 0 and 1."""

CONSTANT_SHARE = 0.05
"""A value that so large a share of a channel has, or a larger one, is left out of the percentiles."""

LEAST_REST = 0.01
"""So large a share of a channel must have other values; else the constant is what the channel shows."""

_SAMPLE = 1 << 22
"""Values by which the percentiles are found; smaller channels are taken whole."""


def scale_intensity(array: NDArray[Any]) -> NDArray[np.float32]:
    """Scale each channel so that its ``PERCENTILES`` become 0 and 1, and clip what lies beyond.

    The percentiles are those of the values other than the one that is most frequent, where that is a large part of the
    channel: what was masked or padded says nothing of the image. A channel that is constant between the percentiles
    (few bright voxels on an empty ground) is scaled by its least and greatest value; one that is constant throughout
    becomes 0. MONAI's ``ScaleIntensityRangePercentiles`` counts the constant in, and works on copies in float.

    Args:
        array: (C, X, Y, Z), integers or finite floats.

    Returns:
        (C, X, Y, Z), values in [0, 1].
    """
    scaled = np.zeros(array.shape, dtype=np.float32)
    for channel, result in zip(array, scaled, strict=True):
        low, high = _range(channel)
        if low == high:
            continue
        # By slices: in double precision until the offset is gone, without a whole volume of doubles.
        for values, to in zip(channel, result, strict=True):
            halves = np.multiply(values, 0.5, dtype=np.float64)
            np.clip(halves, low, high, out=halves)
            halves -= low
            np.divide(halves, high - low, out=to, casting="unsafe")
    return scaled


def _range(channel: NDArray[Any]) -> tuple[float, float]:
    """Return the values of a channel (X, Y, Z) that become 0 and 1, halved: twice the range may be infinite."""
    values = np.sort(_sample(channel))
    starts = np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1])
    lengths = np.diff(starts, append=len(values))
    longest = int(lengths.argmax())
    if CONSTANT_SHARE <= lengths[longest] / len(values) <= 1 - LEAST_REST:
        constant = float(values[starts[longest]]) / 2
        rest = np.delete(values, slice(starts[longest], starts[longest] + lengths[longest]))
        low, high = _percentiles(rest)
        if low < high:
            return _with_constant(low, high, constant, float(rest[0]) / 2, float(rest[-1]) / 2)
    low, high = _percentiles(values)
    if low == high:
        low, high = float(channel.min()) / 2, float(channel.max()) / 2
    return low, high


def _with_constant(low: float, high: float, constant: float, least: float, greatest: float) -> tuple[float, float]:
    """Widen a range towards the constant where a large part of the other values would become one with it.

    That is so where the end of the range is a frequent value itself, as in images of few different values.
    """
    margin = (high - low) / 2
    if constant < low == least:
        return max(constant, low - margin), high
    if constant > high == greatest:
        return low, min(constant, high + margin)
    return low, high


def _percentiles(values: NDArray[Any]) -> tuple[float, float]:
    """Return the halves of the percentiles of sorted values, between two of them by linear interpolation."""
    found = []
    for percentile in PERCENTILES:
        place = percentile / 100 * (len(values) - 1)
        below = math.floor(place)
        pair = values[[below, min(below + 1, len(values) - 1)]].astype(np.float64) / 2
        found.append(float(pair[0] + (place - below) * (pair[1] - pair[0])))
    return found[0], found[1]


def _sample(channel: NDArray[Any]) -> NDArray[Any]:
    """Take every n-th value of a channel (X, Y, Z), the same ones each time."""
    step = -(-channel.size // _SAMPLE)
    # In common with no axis: otherwise whole planes would be left out.
    while math.gcd(step, channel.size) > 1:
        step += 1
    return channel.reshape(-1)[::step]
