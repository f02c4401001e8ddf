"""Imaris files, written by h5py as Imaris' description of the format says, without the app's code."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def characters(value: object) -> NDArray[np.bytes_]:
    """An attribute's value: an array of single characters."""
    return np.frombuffer(str(value).encode(), "S1")


def write_imaris(
    path: Any,
    levels: Sequence[NDArray[Any]],
    low: Sequence[float] = (0, 0, 0),
    high: Sequence[float] = (1, 1, 1),
    unit: str = "um",
    chunk: tuple[int, int, int] = (4, 4, 4),
    **options: Any,
) -> Any:
    """Write a pyramid; return the path.

    Args:
        path: where to write: a path, or a file in memory.
        levels: (T, C, X, Y, Z), the finest first.
        low, high: the ends of the extent along X, Y, Z.
        unit: of the extent.
        chunk: voxels of a chunk along Z, Y, X. Datasets are padded to whole chunks, with the value 99.
        options: of h5py's datasets.
    """
    import h5py

    with h5py.File(path, "w") as file:
        image = file.create_group("DataSetInfo/Image")
        for axis in range(3):
            image.attrs["XYZ"[axis]] = characters(levels[0].shape[2 + axis])
            image.attrs[f"ExtMin{axis}"] = characters(low[axis])
            image.attrs[f"ExtMax{axis}"] = characters(high[axis])
        image.attrs["Unit"] = characters(unit)
        for channel in range(levels[0].shape[1]):
            file.create_group(f"DataSetInfo/Channel {channel}")
        for level, voxels in enumerate(levels):
            for time, channel in np.ndindex(voxels.shape[:2]):
                group = file.create_group(f"DataSet/ResolutionLevel {level}/TimePoint {time}/Channel {channel}")
                planes = voxels[time, channel].T
                for letter, size in zip("ZYX", planes.shape, strict=True):
                    group.attrs[f"ImageSize{letter}"] = characters(size)
                padding = [(0, -size % side) for size, side in zip(planes.shape, chunk, strict=True)]
                padded = np.pad(planes, padding, constant_values=99)
                group.create_dataset("Data", data=padded, **{"chunks": chunk, "compression": "gzip", **options})
    return path
