"""Turns the label that a client submits into an annotation on the image's grid."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.volumes.formats import open_file
from lib.core.volumes.grids import box_onto_grid, check_on_grid, onto_grid
from lib.core.volumes.nrrd import NrrdSource
from lib.core.volumes.reading import read_geometry, read_label_map
from lib.core.volumes.slicer_segmentation import SlicerSegmentation, is_slicer_segmentation, read_slicer_segmentation
from lib.core.volumes.volume import Geometry, LabelMap
from lib.server.slicer.segments import RESERVED, server_segments
from lib.server.slicer.slice_names import SliceNames

MOST_IMAGES, MOST_VOXELS = 8, 1 << 24
"""Largest size of a segmentation, as a multiple of the image's voxels; smaller ones than the second are never large."""

BLOCK = 1 << 22
"""Voxels that are converted at a time."""


class SchemeError(InputError):
    """A stored annotation has a class that the server isn't configured for."""


@dataclass(frozen=True, eq=False)
class Submission:
    """What a person painted.

    Attributes:
        annotation: (X, Y, Z) uint8 on the image's grid, 0 unlabelled, 1 … K+1.
        affine: (4, 4) of the image, voxel to RAS in mm.
        slicer_affine: the affine that 3D Slicer uses if it misreads the image, else None.
        slice_names: what to call its slices.
        warnings: what the annotator should know.
    """

    annotation: NDArray[np.uint8]
    affine: NDArray[np.float64]
    slicer_affine: NDArray[np.float64] | None
    slice_names: SliceNames
    warnings: list[str]


def read_submission(
    label_file: str | Path,
    image_file: str | Path,
    label_info: object,
    scheme: LabelScheme,
    by_number: bool = False,
    limit: int | None = None,
) -> Submission:
    """Read a submitted label: a label map, or 3D Slicer's segmentation, where segments may overlap.

    Args:
        label_file: what the client sent.
        image_file: the image it belongs to.
        label_info: for a label map, a list of ``{"name": …}``, one for each value from 1. A segmentation file holds its
            own names.
        scheme: the server's label scheme.
        by_number: whether a label map without ``label_info`` has the scheme's values.
        limit: bytes of memory that reading the label may take; None for what is free.

    Raises:
        InputError: the label or the image can't be read, or the label isn't on the image's grid, has a voxel of a
            segment that the scheme lacks, holds no paint, or is too large.
    """
    image = read_geometry(image_file)
    if is_slicer_segmentation(label_file):
        _check_size(NrrdSource(Path(label_file)).geometry, image)
        box, warnings = _paint_of_segments(read_slicer_segmentation(label_file, limit), scheme)
        # A segmentation without paint has no place in space.
        _require_paint(box.array, scheme)
        annotation = box_onto_grid(box, image).astype(np.uint8, copy=False)
        left_out = np.count_nonzero(box.array) - np.count_nonzero(annotation)
        if left_out:
            warnings.append(f"{left_out} painted voxels lie outside the image and were left out")
    else:
        if label_info is None and not by_number:
            raise InputError(
                "params: no label_info; send what the label's values 1, 2, … stand for, in that order, e.g. "
                f'{{"label_info": [{{"name": "{scheme.classes[0]}"}}, {{"name": "{scheme.background}"}}]}}'
            )
        names = scheme.classes if label_info is None else _segment_names(label_info)
        # The header is enough for that, and a label of another size may be a large one.
        check_on_grid(open_file(Path(label_file)).geometry, image)
        label = read_label_map(label_file, limit)
        paint, warnings = _paint_of_values(label.array, names, scheme, named=label_info is not None)
        annotation = onto_grid(replace(label, array=paint), image).astype(np.uint8, copy=False)
    _require_paint(annotation, scheme)
    return Submission(annotation, image.affine, image.slicer_affine, SliceNames.of(image), warnings)


def remap(
    annotation: NDArray[np.uint8], label_names: Mapping[str, int], scheme: LabelScheme, where: str
) -> NDArray[np.uint8]:
    """Convert a stored annotation to the scheme's values, by the names that it was stored with.

    Args:
        annotation: (X, Y, Z), values of ``label_names``.
        label_names: the value of each class.
        scheme: the scheme to convert to.
        where: what to call the annotation in errors.

    Returns:
        (X, Y, Z), 0 unlabelled, 1 … K+1.

    Raises:
        SchemeError: a voxel has a class that the scheme lacks.
    """
    table = np.zeros(256, dtype=np.uint8)
    for name, value in label_names.items():
        if name in scheme.classes:
            table[value] = scheme.classes.index(name) + 1
        elif (annotation == value).any():
            raise SchemeError(
                f"{where}: has voxels of the class {name!r}; the server is configured for {scheme.describe()}. "
                "Start it with all classes that were painted (--conf labels, --conf background), "
                "or on another studies folder"
            )
    return table[annotation]


def _segment_names(label_info: object) -> list[str]:
    """Read the names from what 3D Slicer's plugin sends."""
    if not isinstance(label_info, Sequence) or isinstance(label_info, str):
        raise InputError(f"label_info: {label_info!r}; expected a list of {{'name': …}}, one for each segment")
    names = []
    for entry in label_info:
        name = entry.get("name") if isinstance(entry, Mapping) else None
        if not isinstance(name, str):
            raise InputError(f"label_info: the entry {entry!r} has no name; expected {{'name': …}}")
        names.append(name)
    return names


def _table(
    values: NDArray[np.integer[Any]], names: Sequence[str], scheme: LabelScheme, named: bool
) -> tuple[NDArray[np.uint8], list[str]]:
    """Return the annotation value for each value of the label, and warnings.

    Voxel value v belongs to the v-th name. The plugin also sends ``idx``, which counts segments that it doesn't export
    and is therefore useless.

    Args:
        values: the label's values except 0, sorted.
        names: the names of its segments.
        scheme: the label scheme.
        named: whether the client sent the names.
    """
    if values.size and values[-1] > len(names):
        raise InputError(
            f"the label has voxels of value {values[-1]}, but "
            + (
                f"only {len(names)} segments are named in label_info"
                if named
                else "without label_info the values are 0 unlabelled, "
                + ", ".join(f"{value} {name}" for value, name in enumerate(names, start=1))
            )
        )
    painted = set(values.tolist())
    table = np.zeros(len(names) + 1, dtype=np.uint8)
    warnings = []
    for value, name in enumerate(names, start=1):
        if name in scheme.classes:
            table[value] = scheme.classes.index(name) + 1
        elif name in server_segments(scheme):
            covered = [other for other in names[: value - 1] if other in scheme.classes]
            if value in painted and covered:
                warnings.append(
                    f"the segment {name!r} stands after {covered[0]!r} in the list: where both overlap, Slicer "
                    "submits it instead of your paint. Drag it to the top of the list"
                )
        else:
            warnings.append(_unknown(name, value in painted, scheme))
    return table, warnings


def _check_size(box: Geometry, image: Geometry) -> None:
    """Refuse a segmentation that is much larger than the image, before it is read.

    Raises:
        InputError: it is.
    """
    if math.prod(box.shape) > max(MOST_VOXELS, MOST_IMAGES * math.prod(image.shape)):
        raise InputError(
            f"{box.name}: the segmentation has the shape {box.shape}, over {MOST_IMAGES} times as many voxels as "
            f"{image.name} ({image.shape}); give the segmentation the geometry of the image in Slicer's Segment Editor "
            "(Specify geometry, the button beside the source volume)"
        )


def _paint_of_values(
    stored: NDArray[np.integer[Any]], names: Sequence[str], scheme: LabelScheme, named: bool
) -> tuple[NDArray[np.uint8], list[str]]:
    """Convert the values of a label map to those of an annotation.

    Args:
        stored: (X, Y, Z), the label's values.
        names: of its segments.
        scheme: the label scheme.
        named: whether the client sent the names.

    Returns:
        (X, Y, Z) the annotation's values, and warnings.
    """
    paint = np.zeros_like(stored, dtype=np.uint8)
    of, to = stored.ravel(order="K"), paint.ravel(order="K")
    blocks = [slice(start, start + BLOCK) for start in range(0, len(of), BLOCK)]
    # Most volumes have little paint, and an operation on all voxels of a large volume takes seconds.
    values = {value for block in blocks for value in np.unique(of[block][np.flatnonzero(of[block])]).tolist()}
    table, warnings = _table(np.array(sorted(values), stored.dtype), names, scheme, named)
    for block in blocks:
        painted = np.flatnonzero(of[block])
        to[block][painted] = table[of[block][painted]]
    return paint, warnings


def _paint_of_segments(segmentation: SlicerSegmentation, scheme: LabelScheme) -> tuple[LabelMap, list[str]]:
    """Merge the painted segments; where they overlap, the later one counts, as in Slicer's export to a label map.

    The server's own segments are left out, so that they hide no paint.

    Returns:
        The annotation values in the box that the segmentation covers, and warnings.
    """
    paint = np.zeros(segmentation.layers.shape[1:], dtype=np.uint8)
    several = np.zeros(paint.shape, dtype=bool)
    warnings = []
    # Of segments with the same voxels and name, the last one counts.
    last = {(segment.name, segment.layer, segment.value): at for at, segment in enumerate(segmentation.segments)}
    for segment in (segmentation.segments[at] for at in sorted(last.values())):
        is_painted = segment in segmentation.painted
        if segment.name in scheme.classes:
            if not is_painted:
                continue
            mask, value = segmentation.mask(segment), scheme.classes.index(segment.name) + 1
            several |= mask & (paint > 0) & (paint != value)
            paint[mask] = value
        elif segment.name not in server_segments(scheme) and (is_painted or segment.name not in RESERVED):
            # An empty segment with a reserved name is Slicer's own; its plugin leaves these out of label maps.
            warnings.append(_unknown(segment.name, is_painted, scheme))
    if several.any():
        warnings.append(
            f"{np.count_nonzero(several)} voxels are painted as more than one class; each counts as the one that "
            "stands last in the list of segments"
        )
    return LabelMap(paint, segmentation.affine, segmentation.name), warnings


def _unknown(name: str, is_painted: bool, scheme: LabelScheme) -> str:
    """Return the warning about an empty segment that the scheme lacks.

    Raises:
        InputError: the segment isn't empty.
    """
    if is_painted:
        raise InputError(
            f"the segment {name!r} is none of the server's classes ({', '.join(scheme.classes)}); "
            "rename it to one of these, or delete it, and submit again"
        )
    return f"the empty segment {name!r} was ignored; the server's classes are {', '.join(scheme.classes)}"


def _require_paint(annotation: NDArray[np.integer[Any]], scheme: LabelScheme) -> None:
    if not annotation.any():
        raise InputError(
            f"the label holds no paint of {', '.join(scheme.classes)}; paint at least one slice, then submit again"
        )
