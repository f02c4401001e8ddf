"""Turns the label that a client submits into an annotation on the image's grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lib.core.annotation.slices import annotated_slices
from lib.core.annotation.split import plane_flags
from lib.core.errors import InputError
from lib.core.labels import UNLABELLED, LabelScheme
from lib.core.volumes.grids import box_onto_grid, onto_grid
from lib.core.volumes.reading import read_geometry, read_label_map
from lib.core.volumes.slicer_segmentation import SlicerSegmentation, is_slicer_segmentation, read_slicer_segmentation
from lib.core.volumes.volume import LabelMap
from lib.server.slicer.segments import RESERVED, server_segments
from lib.server.slicer.slice_names import SliceNames

ZeroMeans = Literal["0", "none"]
"""Which voxels of a ready-made mask are unlabelled: those of value 0, or none because 0 is the background class."""

ON_SLICES = 0.9
"""The smallest fraction of a sparse annotation's paint that lies on annotated slices."""

NEIGHBOURS = 3
"""The most neighbouring slices, along an axis, that a sparse annotation has."""


class UndecidedMask(InputError):
    """The value 0 of a ready-made mask may have two meanings, and nobody specified which one applies."""


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
    label_file: str | Path, image_file: str | Path, label_info: object, scheme: LabelScheme, by_number: bool = False
) -> Submission:
    """Read a submitted label: a label map, or 3D Slicer's segmentation, where segments may overlap.

    Args:
        label_file: what the client sent.
        image_file: the image it belongs to.
        label_info: for a label map, a list of ``{"name": …}``, one for each value from 1. A segmentation file holds its
            own names.
        scheme: the server's label scheme.
        by_number: whether a label map without ``label_info`` has the scheme's values.

    Raises:
        InputError: the label or the image can't be read, or the label isn't on the image's grid, has a voxel of a
            segment that the scheme lacks, or holds no paint.
    """
    if is_slicer_segmentation(label_file):
        box, warnings = _paint_of_segments(read_slicer_segmentation(label_file), scheme)
        # A segmentation without paint has no place in space.
        _require_paint(box.array, scheme)
        image = read_geometry(image_file)
        annotation = box_onto_grid(box, image).astype(np.uint8, copy=False)
        left_out = np.count_nonzero(box.array) - np.count_nonzero(annotation)
        if left_out:
            warnings.append(f"{left_out} painted voxels lie outside the image and were left out")
    else:
        label = read_label_map(label_file)
        if label_info is None and not by_number:
            raise InputError(
                "params: no label_info; send what the label's values 1, 2, … stand for, in that order, e.g. "
                f'{{"label_info": [{{"name": "{scheme.classes[0]}"}}, {{"name": "{scheme.background}"}}]}}'
            )
        names = scheme.classes if label_info is None else _segment_names(label_info)
        # Most volumes have little paint, and an operation on all voxels of a large volume takes seconds.
        stored = label.array.ravel(order="K")
        painted = np.flatnonzero(stored)
        values = stored[painted]
        table, warnings = _table(np.unique(values), names, scheme, named=label_info is not None)
        paint = np.zeros_like(label.array, dtype=np.uint8)
        paint.ravel(order="K")[painted] = table[values]
        image = read_geometry(image_file)
        annotation = onto_grid(replace(label, array=paint), image).astype(np.uint8, copy=False)
    _require_paint(annotation, scheme)
    return Submission(annotation, image.affine, image.slicer_affine, SliceNames.of(image), warnings)


def read_ready_made(
    label_file: str | Path, image_file: str | Path, scheme: LabelScheme, unlabelled: ZeroMeans | None
) -> Submission:
    """Read a label that somebody put into the folder: a label map of the scheme's values, or Slicer's segmentation.

    In masks of nnU-Net or the Decathlon, 0 is the background; here, 0 means unlabelled. If the paint lies on slices, 0
    is certainly unlabelled. If it doesn't, and the mask has no voxel of the background class, a person has to say what
    0 means.

    Args:
        label_file: the label.
        image_file: the image it belongs to.
        scheme: the server's label scheme.
        unlabelled: what 0 means, if a person specified it.

    Raises:
        UndecidedMask: the meaning of 0 is unclear, and ``unlabelled`` is None.
        InputError: see ``read_submission``.
    """
    submission = read_submission(label_file, image_file, None, scheme, by_number=True)
    annotation = submission.annotation
    if unlabelled == "0" or (annotation == scheme.background_value).any() or annotation.all():
        return submission
    if unlabelled == "none":
        zeros = annotation == UNLABELLED
        warning = f"{np.count_nonzero(zeros)} voxels of value 0 count as {scheme.background} (--conf unlabelled none)"
        filled = np.where(zeros, np.uint8(scheme.background_value), annotation)
        return replace(submission, annotation=filled, warnings=[*submission.warnings, warning])
    if _is_on_slices(annotation):
        return submission
    raise UndecidedMask(
        f"{label_file}: it has no voxel of {scheme.background} (value {scheme.background_value}), and its other voxels "
        f"don't lie on slices, so value 0 may mean {scheme.background} or unlabelled. {DECIDE}"
    )


DECIDE = (
    "Start the server with --conf unlabelled none if 0 is the background, as in masks of nnU-Net or the Decathlon, or "
    "with --conf unlabelled 0 if 0 means unlabelled"
)


def _is_on_slices(annotation: NDArray[np.uint8]) -> bool:
    """Tell whether the paint of an annotation (X, Y, Z) lies on single slices or on small groups of neighbours."""
    x, y, z = planes = plane_flags(annotation.shape, annotated_slices(annotation))
    stack = NEIGHBOURS + 1
    for flags in planes:
        if len(flags) >= stack and np.lib.stride_tricks.sliding_window_view(flags, stack).all(axis=1).any():
            return False
    painted = annotation > 0
    on_any = painted & (x[:, None, None] | y[:, None] | z)
    return bool(np.count_nonzero(on_any) >= ON_SLICES * np.count_nonzero(painted))


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


def _paint_of_segments(segmentation: SlicerSegmentation, scheme: LabelScheme) -> tuple[LabelMap, list[str]]:
    """Merge the painted segments; where they overlap, the later one counts, as in Slicer's export to a label map.

    The server's own segments are left out, so that they hide no paint.

    Returns:
        The annotation values in the box that the segmentation covers, and warnings.
    """
    paint = np.zeros(segmentation.layers.shape[1:], dtype=np.uint8)
    several = np.zeros(paint.shape, dtype=bool)
    warnings = []
    for segment in segmentation.segments:
        mask = segmentation.mask(segment)
        if segment.name in scheme.classes:
            value = scheme.classes.index(segment.name) + 1
            several |= mask & (paint > 0) & (paint != value)
            paint[mask] = value
        elif segment.name not in server_segments(scheme) and (mask.any() or segment.name not in RESERVED):
            # An empty segment with a reserved name is Slicer's own; its plugin leaves these out of label maps.
            warnings.append(_unknown(segment.name, bool(mask.any()), scheme))
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
