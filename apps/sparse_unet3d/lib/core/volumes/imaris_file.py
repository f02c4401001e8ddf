"""The groups, attributes and datasets of Imaris files, which are HDF5; read by h5py and checked before use."""

import itertools
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lib.core.errors import InputError

from .extra_package import extra_package
from .file_checks import MAX_RATIO

_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
"""Ways to store a chunk that h5py reads without plugins, by their numbers. None expands it over ``MAX_RATIO`` times."""

_LEAST = 5
"""Fewest bytes of a compressed chunk with a checksum."""

_MOST_MORE = 1 << 16
"""How many more bytes than its voxels a chunk may have. More would expand to far more than the chunk."""


class Channel(NamedTuple):
    """One channel of an image at one point in time.

    Attributes:
        data: the dataset (Z, Y, X); it is larger than the image where its chunks end beyond the image.
        shape: (X, Y, Z) of the image.
    """

    data: Any
    shape: tuple[int, int, int]


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a file, and turn every error into an ``InputError``.

    Yields:
        The ``h5py.File``.

    Raises:
        InputError: no such file, not HDF5, damaged, no h5py.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the path")
    h5py = extra_package("h5py", path)
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            yield file
    except (InputError, MemoryError):
        raise
    # h5py raises errors of many types for damaged files.
    except Exception as error:
        raise InputError(
            f"{path}: cannot be read ({error}); the file is damaged or incomplete, or no Imaris file of version 5.5; "
            "copy or export it again"
        ) from error


def member(group: Any, name: str) -> Any:
    """Return a group or dataset in a group.

    Raises:
        ValueError: there is none, or it is a link, which may lead to another file.
    """
    link = group.get(name, getlink=True)
    if link is None:
        raise ValueError(f"{name!r} is missing in {group.name}")
    if type(link).__name__ != "HardLink":
        raise ValueError(f"{name!r} in {group.name} is a link to another place")
    return group[name]


def count(group: Any, name: str) -> int:
    """Return how many members ``NAME 0``, ``NAME 1``, … a group has.

    Raises:
        ValueError: one of them is missing.
    """
    numbers = {int(match[1]) for key in group if (match := re.fullmatch(f"{name} ([0-9]{{1,9}})", key))}
    missing = next(number for number in itertools.count() if number not in numbers)
    if missing < len(numbers):
        raise ValueError(f"'{name} {missing}' is missing in {group.name}")
    return len(numbers)


def text(item: Any, name: str) -> str:
    """Return an attribute, which Imaris stores as an array of characters; empty if there is none."""
    value = np.ravel(item.attrs.get(name, b"")).tolist()
    return b"".join(part if isinstance(part, bytes) else str(part).encode() for part in value).decode(errors="replace")


def channels_of(file: Any, level: int, time: int) -> list[Channel]:
    """Return the channels of a level at a point in time.

    Raises:
        ValueError: none, a channel is missing, of other sizes or another type than the first, or can't be used.
    """
    group = member(member(member(file, "DataSet"), f"ResolutionLevel {level}"), f"TimePoint {time}")
    found = count(group, "Channel")
    # Some programs don't describe the channels.
    declared = count(member(file, "DataSetInfo"), "Channel") or found
    if found != declared or found == 0:
        raise ValueError(f"{found} channels in {group.name}, expected {max(declared, 1)}")
    channels = [_channel(file, member(group, f"Channel {number}")) for number in range(found)]
    for channel in channels:
        if (channel.shape, channel.data.dtype) != (channels[0].shape, channels[0].data.dtype):
            raise ValueError(f"{channel.data.name} has another shape or type than channel 0")
    return channels


def _channel(file: Any, group: Any) -> Channel:
    """Return a channel after looking at what the file declares of it.

    Raises:
        ValueError: no 3-D image of numbers, in other files, other filters, larger than the file can hold.
    """
    data = member(group, "Data")
    x, y, z = (int(text(group, f"ImageSize{axis}") or 0) for axis in "XYZ")
    if data.ndim != 3 or min(x, y, z) < 1 or any(np.greater((z, y, x), data.shape)):
        raise ValueError(f"{data.name} has the shape {data.shape}, and its image {z, y, x}")
    if data.dtype.kind not in "iuf" or data.dtype.itemsize > 8:
        raise ValueError(f"{data.name} has values of type {data.dtype}; expected integers or real numbers")
    if data.is_virtual or data.external:
        raise ValueError(f"{data.name} is in other files")
    stored_by = data.id.get_create_plist()
    filters = [stored_by.get_filter(number)[0] for number in range(stored_by.get_nfilters())]
    if not set(filters) <= set(_FILTERS) or len(set(filters)) < len(filters):
        expected = ", ".join(f"{number} ({name})" for number, name in _FILTERS.items())
        raise ValueError(f"{data.name} is stored by the filters {filters}; expected only {expected}, each once")
    size = file.id.get_filesize()
    stored = min(data.id.get_storage_size(), size)
    largest = math.prod(data.chunks or (0,)) * data.dtype.itemsize
    if x * y * z * data.dtype.itemsize > stored * (MAX_RATIO if filters else 1) or largest > MAX_RATIO * size:
        raise ValueError(f"{data.name} declares more voxels than {stored} bytes can hold")
    return Channel(data, (x, y, z))


def check_chunks(channel: Channel) -> None:
    """Check that all chunks of a channel's image are there; HDF5 takes missing ones for zeros.

    Raises:
        ValueError: one is missing, so short that HDF5 would read beyond its end, or longer than its voxels.
    """
    data = channel.data
    if data.chunks is None:
        return
    found = dict[tuple[int, ...], Any]()
    data.id.chunk_iter(lambda chunk: found.update({chunk.chunk_offset: chunk}))
    is_compressed = data.id.get_create_plist().get_nfilters() > 0
    size = math.prod(data.chunks) * data.dtype.itemsize
    for start in itertools.product(*map(range, (0, 0, 0), reversed(channel.shape), data.chunks)):
        chunk = found.get(start)
        # A chunk that compression would make larger is stored without it, and its mask says so.
        least = size if chunk is None or chunk.filter_mask or not is_compressed else max(_LEAST, size // MAX_RATIO)
        if chunk is None or not least <= chunk.size <= size + _MOST_MORE:
            raise ValueError(f"the chunk at {start} (Z, Y, X) of {data.name} is missing or of a wrong size")
