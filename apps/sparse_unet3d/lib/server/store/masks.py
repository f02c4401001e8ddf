"""Reads ready-made masks, in which the value 0 may mean unlabelled or background."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lib.core.annotation.slices import annotated_slices
from lib.core.annotation.split import plane_flags
from lib.core.errors import InputError
from lib.core.labels import UNLABELLED, LabelScheme

from .submission import Submission, read_submission

ZeroMeans = Literal["0", "none"]
"""Which voxels of a ready-made mask are unlabelled: those of value 0, or none because 0 is the background class."""

ON_SLICES = 0.9
"""The smallest fraction of a sparse annotation's paint that lies on annotated slices."""

NEIGHBOURS = 3
"""The most neighbouring slices, along an axis, that a sparse annotation has."""


class UndecidedMask(InputError):
    """The value 0 of a ready-made mask may have two meanings, and nobody specified which one applies."""


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
