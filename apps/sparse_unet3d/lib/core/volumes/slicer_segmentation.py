"""3D Slicer's segmentations (``.seg.nrrd``): segments that have names, may overlap, and cover a box of the image.

Such a file is an NRRD volume whose header describes N segments: ``SegmentN_Name``, and which voxels are its own, those
of value ``SegmentN_LabelValue`` in layer ``SegmentN_Layer``. Segments that overlap lie in different layers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import InputError

from .formats import Affine, read_header, read_voxels


class Segment(NamedTuple):
    """One segment: the voxels of a value in a layer."""

    name: str
    layer: int
    value: int


@dataclass(frozen=True, eq=False)
class SlicerSegmentation:
    """Segments in the order of Slicer's list.

    Attributes:
        layers: (L, X, Y, Z), integers.
        affine: (4, 4) voxel to RAS mm; of the box that the file covers, no bigger than the segments need.
        segments: which voxels belong to whom.
        name: what messages call it: the file, where it came from one.
    """

    layers: NDArray[np.integer[Any]]
    affine: Affine
    segments: tuple[Segment, ...]
    name: str = "the segmentation"

    def mask(self, segment: Segment) -> NDArray[np.bool_]:
        """Mark the voxels (X, Y, Z) of a segment."""
        of_segment: NDArray[np.bool_] = self.layers[segment.layer] == segment.value
        return of_segment


def read_slicer_segmentation(path: str | Path) -> SlicerSegmentation:
    """Read a segmentation, whatever the file's name ends in.

    Raises:
        InputError: the file is damaged, a segment isn't described properly, or a voxel belongs to none.
    """
    path = Path(path)
    header = read_header(path, ".nrrd")
    if header.dtype.kind not in "iu":
        raise InputError(f"{path}: values of type {header.dtype}; expected integers, save it in Slicer again")
    segments = tuple(_segments(path, header.fields))
    for segment in segments:
        if segment.value == 0 or not 0 <= segment.layer < header.channels:
            raise InputError(
                f"{path}: the segment {segment.name!r} has value {segment.value} in layer {segment.layer}; expected "
                f"another value than 0 and a layer below {header.channels}, save the segmentation in Slicer again"
            )
    layers = np.empty((header.channels, *header.shape), header.dtype)
    read_voxels(path, header, layers, ".nrrd")
    for layer, array in enumerate(layers):
        values = [0, *(segment.value for segment in segments if segment.layer == layer)]
        strange = array[~np.isin(array, values)]
        if strange.size:
            raise InputError(
                f"{path}: layer {layer} has voxels of value {strange[0]}, which no segment has; expected a binary "
                "label map of each segment, save the segmentation in Slicer again"
            )
    return SlicerSegmentation(layers, header.affine, segments, str(path))


def _segments(path: Path, fields: Mapping[str, str]) -> list[Segment]:
    """Read the description of the segments out of the header."""
    count = 1 + max((int(match[1]) for key in fields if (match := re.match(r"Segment(\d+)_", key))), default=-1)
    segments = []
    for i in range(count):
        name = fields.get(f"Segment{i}_Name")
        # Before there were layers, each segment had one of its own, with the value 1.
        layer, value = fields.get(f"Segment{i}_Layer", str(i)), fields.get(f"Segment{i}_LabelValue", "1")
        if name is None or not layer.isdecimal() or not value.isdecimal():
            raise InputError(
                f"{path}: segment {i} has name {name!r}, layer {layer!r} and value {value!r}; expected a name and two "
                "whole numbers, save the segmentation in Slicer again"
            )
        segments.append(Segment(name, int(layer), int(value)))
    return segments
