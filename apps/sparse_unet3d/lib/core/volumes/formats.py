"""The file formats, by file ending. To add a format, add one line to ``FORMATS``."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import InputError

from .meta_image import MetaImageSource
from .nifti import NiftiSource
from .nrrd import NrrdSource
from .source import VolumeSource
from .volume import Affine

FORMATS: dict[str, Callable[[Path], VolumeSource]] = {
    ".nii": NiftiSource,
    ".nii.gz": NiftiSource,
    ".nrrd": NrrdSource,
    ".mha": MetaImageSource,
}
"""The class that reads an image, by its file ending in lower case."""

WRITERS: dict[str, Callable[[Path, NDArray[np.uint8], Affine], None]] = {
    ".nii": NiftiSource.write,
    ".nii.gz": NiftiSource.write,
    ".nrrd": NrrdSource.write,
    ".mha": MetaImageSource.write,
}
"""The function that writes a label map (X, Y, Z), by its file ending. Formats that are only read are missing."""

SEGMENTATION = ".seg"
"""Part of a name that 3D Slicer puts before the file ending of its segmentations."""


def open_file(path: Path) -> VolumeSource:
    """Open one file (or folder) by its ending.

    Raises:
        InputError: unknown ending, or the source can't use the file.
    """
    return FORMATS[ending_of(path)](path)


def endings() -> tuple[str, ...]:
    """Return the endings of the files that can be read, in lower case."""
    return tuple(FORMATS)


def split_ending(name: str) -> tuple[str, str]:
    """Split a file name into its stem, and its ending as written; the ending is empty if it is unknown.

    Case doesn't matter. A ``.seg`` before a known ending is part of the ending, as in Slicer's segmentations.
    """
    low = name.lower()
    ending = max((ending for ending in FORMATS if low.endswith(ending)), key=len, default="")
    if ending and low.endswith(SEGMENTATION + ending):
        ending = SEGMENTATION + ending
    return name[: len(name) - len(ending)], name[len(name) - len(ending) :]


def ending_of(path: Path) -> str:
    """Return the ending that determines the format of a file, in lower case and without ``.seg``.

    Raises:
        InputError: unknown ending.
    """
    ending = split_ending(path.name)[1].lower().removeprefix(SEGMENTATION)
    if not ending:
        raise InputError(
            f"{path}: unknown file ending; expected {', '.join(endings())}; convert it, e.g. with 3D Slicer"
        )
    return ending
