"""What tests write into TIFF files, and a check that all of it is read."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lib.core.volumes.tiff import TiffSource
from sources import check_voxels

SIZES = {"T": 3, "C": 2, "Z": 7, "Y": 40, "X": 33, "S": 3}
BOX = (slice(3, 30), slice(17, 35), slice(2, 6))


def voxels(axes: str, dtype: DTypeLike = np.uint16) -> NDArray[Any]:
    """An array with these axes and few equal values."""
    random = np.random.default_rng(0)
    return random.integers(0, 255, [SIZES[axis] for axis in axes]).astype(dtype)


def as_channels(array: NDArray[Any], axes: str, time: int = 0) -> NDArray[Any]:
    """One point in time as (C, X, Y, Z), by a plain loop over the channels and samples."""
    names = dict(zip(axes, range(len(axes)), strict=True))
    found = []
    for c in range(SIZES["C"] if "C" in names else 1):
        for s in range(SIZES["S"] if "S" in names else 1):
            at = {"T": time, "C": c, "S": s}
            part = array[tuple(at.get(axis, slice(None)) for axis in axes)]
            left = [axis for axis in axes if axis in "XYZ"]
            found.append(np.einsum(part, [ord(axis) - 65 for axis in left], [ord(axis) - 65 for axis in "XYZ"]))
    return np.array(found)


def check(path: Path, expected: NDArray[Any]) -> TiffSource:
    """Check that all voxels, and those of a box, are as expected (C, X, Y, Z)."""
    source = TiffSource(path)
    check_voxels(source, path, expected, (BOX, (slice(0, 1), slice(39, 40), slice(6, 7))))
    return source


LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "big-endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True},
    "tiled": {"tile": (16, 32)},
    "strips": {"rowsperstrip": 7},
    "deflate": {"compression": "zlib", "predictor": True},
    "deflate tiles": {"compression": "zlib", "tile": (32, 16), "byteorder": ">"},
    "LZW": {"compression": "lzw", "rowsperstrip": 11, "predictor": True},
    "PackBits": {"compression": "packbits"},
    "Zstandard": {"compression": "zstd", "bigtiff": True},
}
