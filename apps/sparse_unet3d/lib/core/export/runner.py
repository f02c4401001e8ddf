"""Segments an image by the network beside this file: python run.py IMAGE.npy LABELS.npy X Y Z.

IMAGE.npy has the axes channel, X, Y, Z and finite values; X Y Z is the size of a voxel in mm. LABELS.npy gets the
labels (X, Y, Z), uint8. preprocessing.json says what is done here, and which label is which class.
"""

import itertools
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

FACTS: dict[str, Any] = {}
"""What preprocessing.json says."""


def scaled(channel: NDArray[Any]) -> NDArray[np.float32]:
    """Scale a channel (X, Y, Z) to 0 … 1."""
    step = -(-channel.size // FACTS["sampled_values"])
    sample = np.sort(channel.ravel()[:: next(n for n in itertools.count(step) if math.gcd(n, channel.size) == 1)])
    values, counts = np.unique(sample, return_counts=True)
    most = values[counts.argmax()]
    least, greatest = FACTS["constant_share"]
    rest = sample[sample != most] if least <= counts.max() / len(sample) <= greatest else sample
    low, high = np.percentile(rest.astype(float), FACTS["percentiles"])
    if low == high:
        low, high = np.percentile(sample.astype(float), FACTS["percentiles"])
    elif most < low == rest[0]:
        low = max(float(most), low - (high - low) / 2)
    elif most > high == rest[-1]:
        high = min(float(most), high + (high - low) / 2)
    if low == high:
        low, high = float(channel.min()), float(channel.max())
    return np.asarray(np.clip((channel - low) / ((high - low) or 1), 0, 1), np.float32)


def resampled(image: NDArray[np.float32], shape: list[int], smooth: bool) -> NDArray[np.float32]:
    """Resample (C, *spatial) to (C, *shape)."""
    for axis, (old, new) in enumerate(zip(image.shape[1:], shape, strict=True), start=1):
        at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(old)))
        if smooth and old > new:
            unit = (old / new - 1) / math.sqrt(2)
            kernel = np.diff([math.erf((apart - 0.5) / unit) for apart in range(old + 1)]) / 2
            weights = weights @ kernel[np.abs(np.arange(old)[:, None] - np.arange(old))]
        image = np.moveaxis(np.tensordot(weights.astype(np.float32), image, (1, axis)), 0, axis)
    return image


def probabilities(image: NDArray[np.float32], network: onnxruntime.InferenceSession) -> NDArray[np.float32]:
    """Return (class, X, Y, Z) for an image (C, X, Y, Z) on the network's voxels."""
    shape, side = image.shape[1:], FACTS["piece"]
    found = np.empty((len(FACTS["classes"]), *shape), np.float32)
    for first in itertools.product(*(range(0, length, side) for length in shape)):
        size = [min(side, length - start) for length, start in zip(shape, first, strict=True)]
        given = {"image": image[None], "first": np.array(first, np.int64), "size": np.array(size, np.int64)}
        box = (slice(None), *(slice(start, start + side) for start in first))
        found[box] = network.run(None, given)[0][0]
    return found


def segment(image: NDArray[Any], voxel_size: list[float], network: onnxruntime.InferenceSession) -> NDArray[np.uint8]:
    """Return the labels (X, Y, Z) of an image (C, X, Y, Z) with voxels of this size in mm."""
    if len(image) != FACTS["channels"] or not np.isfinite(image).all():
        sys.exit(f"{len(image)} channel(s); expected {FACTS['channels']}, and finite values only")
    native = list(image.shape[1:])
    spacing = FACTS["spacing_mm"] or voxel_size
    working = [max(1, round(n * own / new)) for n, own, new in zip(native, voxel_size, spacing, strict=True)]
    given = np.stack([scaled(channel) for channel in image])
    if working == native:
        return np.asarray(probabilities(given, network).argmax(axis=0), np.uint8)
    found = probabilities(resampled(given, working, smooth=True), network)
    return np.asarray(resampled(found, native, smooth=False).argmax(axis=0), np.uint8)


if __name__ == "__main__":
    FACTS.update(json.loads(Path(__file__).with_name("preprocessing.json").read_text(encoding="utf-8")))
    session = onnxruntime.InferenceSession(str(Path(__file__).with_name("model.onnx")))
    np.save(sys.argv[2], segment(np.load(sys.argv[1]), [float(size) for size in sys.argv[3:6]], session))
