"""What the XML of a LIF file says: which series there are, and where their voxels lie."""

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element  # nosec B405 - the type only

import numpy as np

from lib.core.errors import InputError

from .extra_package import extra_package, reading_by_package
from .named_images import NamedImage, named_images
from .voxel_size import MILLIMETRES, if_valid
from .xml_checks import check_xml

_AXES = {"1": "x", "2": "y", "3": "z", "4": "t", "10": "m"}
"""The axes, by the numbers that LIF gives them; t is time, m the tile of a mosaic."""

_DESCRIPTION = "Data/Image/ImageDescription"
_AXIS = f"{_DESCRIPTION}/Dimensions/DimensionDescription"
_CHANNEL = f"{_DESCRIPTION}/Channels/ChannelDescription"


class Contents(NamedTuple):
    """What is in a file.

    Attributes:
        series: the metadata of each series, with its name.
        blocks: the start and the number of bytes of each block of voxels, by its name.
    """

    series: list[tuple[str, Element]]
    blocks: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Layout:
    """Where the voxels of an image are in the file.

    Attributes:
        start: of the first voxel.
        shape: (X, Y, Z).
        steps: bytes from one voxel to the next along X, Y and Z.
        channels: bytes from the first voxel to that of each channel.
        dtype: of the stored values.
        size: of a voxel along X, Y, Z in mm; None if the file doesn't say it.
    """

    start: int
    shape: tuple[int, int, int]
    steps: tuple[int, int, int]
    channels: tuple[int, ...]
    dtype: np.dtype[Any]
    size: tuple[float, float, float] | None


def opened(file: Path) -> Contents:
    """Read a file's metadata, and where its blocks of voxels are.

    Raises:
        InputError: no such file, no LIF file, damaged, the package ``liffile`` isn't installed.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file; check the path")
    liffile = extra_package("liffile", file)
    with reading_by_package(file):
        _check_header(file)
        with liffile.LifFile(file) as lif:
            if lif.type is not liffile.LifFileType.LIF:
                raise ValueError(f"it is a file of the kind {lif.type.name}")
            series = list(_series(lif.xml_element.findall("Element")))
            size = file.stat().st_size
            places = {name: (block.offset, block.size) for name, block in lif.memory_blocks.items()}
            # The last block of an incomplete file goes on beyond its end.
            return Contents(series, {name: (start, min(held, size - start)) for name, (start, held) in places.items()})


def images_of(file: Path, contents: Contents) -> dict[str, NamedImage]:
    """Return a file's images by their names: each tile and point in time of each series.

    Raises:
        InputError: there are none, or too many.
    """
    if not contents.series:
        raise InputError(f"{file}: no image in this file; copy or export it again")
    with reading_by_package(file):
        found = [(name, _further_axes(element)) for name, element in contents.series]
    return named_images(file, found)


def layout_of(path: Path, contents: Contents, number: int, place: Mapping[str, int]) -> Layout:
    """Return where an image's voxels are.

    Args:
        path: of the image.
        contents: of the file.
        number: of the series.
        place: index along ``t`` and ``m``.

    Raises:
        InputError: axes or types that can't be used, voxels missing, or more declared than the file holds.
    """
    element = contents.series[number][1]
    with reading_by_package(path):
        axes = _axes(path, element)
        lengths = {axis: int(axes[axis]["NumberOfElements"]) if axis in axes else 1 for axis in "xyz"}
        steps = {axis: int(axes[axis]["BytesInc"]) if axis in axes else 0 for axis in "xyz"}
        channels, dtype = _channels(path, element)
        if min(lengths.values()) < 1 or min(*steps.values(), *channels) < 0:
            raise ValueError(f"axes of lengths {lengths} with steps {steps} are declared")
        start, held = contents.blocks[_child(element, "Memory").attrib["MemoryBlockID"]]
        before = sum(index * int(axes[axis]["BytesInc"]) for axis, index in place.items() if index)
        end = max(channels) + sum((lengths[axis] - 1) * steps[axis] for axis in "xyz") + dtype.itemsize
        declared = max(end, math.prod(lengths.values()) * len(channels) * dtype.itemsize)
        if before < 0 or before + declared > held:
            raise EOFError(f"{declared} bytes of voxels are declared, and {max(held - before, 0)} are there")
        size = _voxel_size(axes)
    x, y, z = lengths.values()
    return Layout(start + before, (x, y, z), (steps["x"], steps["y"], steps["z"]), channels, dtype, size)


def _check_header(file: Path) -> None:
    """Refuse what the package would read too: other kinds of files, which name further files, and harmful XML.

    Raises:
        ValueError, EOFError, struct.error: it is no LIF file, its XML can't be used, or the end of the XML is missing.
    """
    with file.open("rb") as stream:
        kind, _, mark, characters = struct.unpack("<IIBI", stream.read(13))
        if kind != 0x70 or mark != 0x2A:
            raise ValueError("it is no LIF file")
        if 13 + 2 * characters > file.stat().st_size:
            raise EOFError("the metadata is incomplete")
        check_xml(stream.read(2 * characters).decode("utf-16-le"))


def _series(elements: list[Element], *folders: str) -> Iterator[tuple[str, Element]]:
    """Yield the series among elements and in them, with their names and those of the folders that they are in."""
    for element in elements:
        path = (*folders, element.get("Name", ""))
        if element.find("Data/Image") is not None:
            # The first one stands for the file.
            yield "_".join(path[1:] or path), element
        yield from _series(element.findall("Children/Element"), *path)


def _further_axes(series: Element) -> dict[str, int]:
    """Return the lengths of the axes whose steps are images."""
    of = {_AXES.get(axis.attrib["DimID"]): int(axis.attrib["NumberOfElements"]) for axis in series.findall(_AXIS)}
    return {axis: of.get(axis, 1) for axis in "mt"}


def _axes(path: Path, series: Element) -> dict[str, dict[str, str]]:
    """Return the attributes of the axes by their letters.

    Raises:
        InputError: there are others with several steps, or one exists twice.
    """
    found = [axis.attrib for axis in series.findall(_AXIS) if int(axis.attrib["NumberOfElements"]) != 1]
    numbers = [axis["DimID"] for axis in found]
    if not set(numbers) <= set(_AXES) or len(set(numbers)) < len(numbers):
        names = ", ".join(_AXES.get(number, f"number {number}") for number in numbers)
        raise InputError(
            f"{path}: the axes are {names}; expected x, y, z, t (time) and m (mosaic), each once; save the image in "
            "parts, e.g. each wavelength or angle as one"
        )
    return {_AXES[axis["DimID"]]: axis for axis in found}


def _channels(path: Path, series: Element) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the bytes from the first voxel to that of each channel, and the type of all values.

    Raises:
        InputError: channels have different types.
        ValueError: there are no channels, or types that don't exist.
    """
    channels = [channel.attrib for channel in series.findall(_CHANNEL)]
    steps = [*channels, *(axis.attrib for axis in series.findall(_AXIS))]
    if not channels or any(int(step["BitInc"]) for step in steps):
        raise ValueError("no channels or packed bits are declared")
    types = {(channel["DataType"], _bytes(int(channel["Resolution"]))) for channel in channels}
    if len(types) > 1:
        raise InputError(f"{path}: the channels have several types of values; save each channel as one image")
    ((kind, size),) = types
    return tuple(int(channel["BytesInc"]) for channel in channels), np.dtype(f"<{'uf'[int(kind)]}{size}")


def _bytes(bits: int) -> int:
    """Return the bytes in which a value with so many bits is stored.

    Raises:
        ValueError: there are no such values.
    """
    for size in (1, 2, 4, 8):
        if 0 < bits <= 8 * size:
            return size
    raise ValueError(f"values of {bits} bits are declared")


def _voxel_size(axes: dict[str, dict[str, str]]) -> tuple[float, float, float] | None:
    """Return the size of a voxel along X, Y and Z in mm; None if it isn't stated.

    The stated length is that from the first voxel's centre to the last one's, negative where the stage went back.
    """
    found = [axes[axis] for axis in "xyz" if axis in axes]
    lengths = [abs(float(axis["Length"])) * MILLIMETRES.get(axis["Unit"], 0) for axis in found]
    sizes = [length / (int(axis["NumberOfElements"]) - 1) for length, axis in zip(lengths, found, strict=True)]
    return if_valid(sizes) if len(sizes) == 3 else None


def _child(element: Element, name: str) -> Element:
    """Return a child.

    Raises:
        ValueError: there is none.
    """
    child = element.find(name)
    if child is None:
        raise ValueError(f"no {name} in {element.get('Name')}")
    return child
