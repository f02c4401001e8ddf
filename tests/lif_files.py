"""LIF files, written as Leica's description of the format says, without the app's code."""

import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

NUMBERS = {"x": 1, "y": 2, "z": 3, "t": 4, "w": 5, "m": 10}
"""Of the axes; w is the wavelength."""


class Series(NamedTuple):
    """One series: its name, with folders before it; its voxels as they are in the file, and their axes.

    The size of a voxel is in metres along X, Y, Z; c are the channels.
    """

    name: str
    array: NDArray[Any]
    axes: str
    size: tuple[float, float, float] = (4e-7, 5e-7, 1.25e-6)
    unit: str = "m"


def element(series: Series, block: str) -> str:
    """The metadata of a series, whose voxels are in a block of that name."""
    array, axes = series.array, series.axes
    steps = dict(zip(axes, array.strides, strict=True))
    kind, bits = int(array.dtype.kind == "f"), 8 * array.dtype.itemsize
    channels = [number * steps["c"] for number in range(array.shape[axes.index("c")])] if "c" in axes else [0]
    sizes = {**dict(zip("xyz", series.size, strict=True)), "t": 1.0, "m": 1.0, "w": 1.0}
    dimensions = "".join(
        f'<DimensionDescription DimID="{NUMBERS[axis]}" NumberOfElements="{count}" Origin="0" '
        f'Length="{(count - 1) * sizes[axis]!r}" Unit="{series.unit}" BytesInc="{steps[axis]}" BitInc="0"/>'
        for axis, count in reversed(list(zip(axes, array.shape, strict=True)))
        if axis != "c"
    )
    described = "".join(
        f'<ChannelDescription DataType="{kind}" ChannelTag="0" Resolution="{bits}" NameOfMeasuredQuantity="" '
        f'Min="0" Max="1" Unit="" LUTName="Gray" IsLUTInverted="0" BytesInc="{step}" BitInc="0"/>'
        for step in channels
    )
    *folders, name = series.name.split("/")
    start = "".join(
        f'<Element Name="{folder}"><Data/><Memory Size="0" MemoryBlockID=""/><Children>' for folder in folders
    )
    return (
        f'{start}<Element Name="{name}"><Data><Image><ImageDescription><Channels>{described}</Channels><Dimensions>'
        f'{dimensions}</Dimensions></ImageDescription></Image></Data><Memory Size="{array.nbytes}" '
        f'MemoryBlockID="{block}"/></Element>{"</Children></Element>" * len(folders)}'
    )


def header(elements: str, version: int = 2) -> bytes:
    """The beginning of a file: its XML, and what is before it."""
    xml = (
        f'<LMSDataContainerHeader Version="{version}"><Element Name="Project"><Data><Experiment/></Data>'
        f'<Memory Size="0" MemoryBlockID=""/><Children>{elements}</Children></Element></LMSDataContainerHeader>'
    )
    return framed(xml)


def framed(xml: str) -> bytes:
    return struct.pack("<IIBI", 0x70, 2 * len(xml) + 5, 0x2A, len(xml)) + xml.encode("utf-16-le")


def block(name: str, content: bytes, version: int = 2) -> bytes:
    """A block of voxels."""
    size = struct.pack("<BQ" if version == 2 else "<BI", 0x2A, len(content))
    text = struct.pack("<BI", 0x2A, len(name)) + name.encode("utf-16-le")
    return struct.pack("<II", 0x70, len(size) + len(text)) + size + text + content


def lif(*series: Series, version: int = 2) -> bytes:
    """A file with these series."""
    names = [f"MemBlock_{number}" for number in range(len(series))]
    elements = "".join(map(element, series, names))
    blocks = [
        block(name, np.ascontiguousarray(each.array).tobytes(), version)
        for name, each in zip(names, series, strict=True)
    ]
    return header(elements, version) + b"".join(blocks)
