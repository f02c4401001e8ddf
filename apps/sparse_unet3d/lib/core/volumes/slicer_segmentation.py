"""3D Slicer's segmentations (``.seg.nrrd``): segments that have names, may overlap, and cover a box of the image.

Such a file is an NRRD volume. Its header describes segments: segment N is named ``SegmentN_Name`` and has the voxels of
value ``SegmentN_LabelValue`` in layer ``SegmentN_Layer``. Segments that overlap lie in different layers.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import InputError

from .budget import memory_for
from .file_checks import header_lines
from .nrrd import NrrdSource
from .volume import Affine

_NUMBER = re.compile(r"\d{1,18}")

_TABLE = 1 << 16
"""Longest range of values that are looked up in a table."""


class Segment(NamedTuple):
    """One segment: the voxels of one value in one layer."""

    name: str
    layer: int
    value: int


@dataclass(frozen=True, eq=False)
class SlicerSegmentation:
    """Segments in the order of Slicer's list.

    Attributes:
        layers: (L, X, Y, Z), integers.
        affine: (4, 4) voxel to RAS mm of the box that the file covers, which is no larger than the segments need.
        segments: their names and voxels.
        painted: those that have voxels.
        name: what messages call it: the file, if it came from one.
    """

    layers: NDArray[np.integer[Any]]
    affine: Affine
    segments: tuple[Segment, ...]
    painted: frozenset[Segment]
    name: str = "the segmentation"

    def mask(self, segment: Segment) -> NDArray[np.bool_]:
        """Return which voxels (X, Y, Z) belong to a segment."""
        of_segment: NDArray[np.bool_] = self.layers[segment.layer] == segment.value
        return of_segment


def is_slicer_segmentation(path: str | Path) -> bool:
    """Return whether a file holds a segmentation, by its content and not its name; False if it can't be read."""
    try:
        state = os.stat(path)
        return _is_slicer_segmentation(str(path), state.st_mtime_ns, state.st_size)
    except (OSError, ValueError):
        return False


@lru_cache(maxsize=10_000)
def _is_slicer_segmentation(path: str, written: int, size: int) -> bool:
    """Look into a file, once for each time of writing and size."""
    with open(path, "rb") as file:
        if file.read(4) != b"NRRD":
            return False
        # Keys in the header of every segmentation begin with one of these, also without any segment.
        return any(line.startswith((b"Segment0_", b"Segmentation_")) for line in header_lines(file))


def read_slicer_segmentation(path: str | Path, limit: int | None = None) -> SlicerSegmentation:
    """Read a segmentation, whatever the ending of the file's name.

    Args:
        path: the file.
        limit: bytes of memory that reading it may take; None for what is free.

    Raises:
        InputError: the file is damaged, a segment isn't described properly, a voxel belongs to none, or it is too large
            for the limit or the free memory.
    """
    source = NrrdSource(Path(path))
    geometry = source.geometry
    if geometry.dtype.kind not in "iu":
        raise InputError(f"{path}: values of type {geometry.dtype}; expected integers, save it in Slicer again")
    segments = tuple(_segments(path, source.fields))
    for segment in segments:
        if segment.value == 0 or not 0 <= segment.layer < geometry.channels:
            raise InputError(
                f"{path}: the segment {segment.name!r} has value {segment.value} in layer {segment.layer}; expected "
                f"another value than 0 and a layer below {geometry.channels}, save the segmentation in Slicer again"
            )
    with memory_for(source, limit):
        layers = source.read()
        found = [set(_values(layer)) for layer in layers]
    for layer, values in enumerate(found):
        if strange := values - {0, *(segment.value for segment in segments if segment.layer == layer)}:
            raise InputError(
                f"{path}: layer {layer} has voxels of value {min(strange)}, which no segment has; expected a binary "
                "label map of each segment, save the segmentation in Slicer again"
            )
    painted = frozenset(segment for segment in segments if segment.value in found[segment.layer])
    return SlicerSegmentation(layers, geometry.affine, segments, painted, str(path))


def _values(array: NDArray[np.integer[Any]]) -> list[int]:
    """Return the different values of an array (X, Y, Z)."""
    least, most = int(array.min()), int(array.max())
    if most - least >= _TABLE:
        return [int(value) for value in np.unique(array)]
    found = np.zeros(most - least + 1, bool)
    for plane in array:
        found[plane.astype(np.int64) - least] = True
    return [least + int(index) for index in np.flatnonzero(found)]


def _segments(path: str | Path, fields: Mapping[str, str]) -> list[Segment]:
    """Read the description of the segments from the fields of the header."""
    count = 1 + max((int(match[1]) for key in fields if (match := re.match(r"Segment(\d{1,9})_", key))), default=-1)
    segments = []
    for i in range(count):
        name = fields.get(f"Segment{i}_Name")
        # Versions of Slicer without layers wrote one component for each segment, with value 1.
        layer, value = fields.get(f"Segment{i}_Layer", str(i)), fields.get(f"Segment{i}_LabelValue", "1")
        if name is None or not (_NUMBER.fullmatch(layer) and _NUMBER.fullmatch(value)):
            raise InputError(
                f"{path}: segment {i} has name {name!r}, layer {layer[:20]!r} and value {value[:20]!r}; expected a "
                "name and two whole numbers, save the segmentation in Slicer again"
            )
        segments.append(Segment(name, int(layer), int(value)))
    return segments
