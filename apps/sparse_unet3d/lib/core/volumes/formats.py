"""The file formats, by the ending of a file's name: another format is one line in ``FORMATS``."""

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
"""What reads an image, by the ending of its name in small letters."""

WRITERS: dict[str, Callable[[Path, NDArray[np.uint8], Affine], None]] = {
    ".nii": NiftiSource.write,
    ".nii.gz": NiftiSource.write,
    ".nrrd": NrrdSource.write,
    ".mha": MetaImageSource.write,
}
"""What writes a label map (X, Y, Z), by the ending of its name; a format can be missing here."""

SEGMENTATION = ".seg"
"""What 3D Slicer puts before the ending of its segmentations."""


def open_file(path: Path) -> VolumeSource:
    """Open one file (or folder) by its ending.

    Raises:
        InputError: unknown ending, or the source can't use the file.
    """
    return FORMATS[ending_of(path)](path)


def endings() -> tuple[str, ...]:
    """Return the endings of the files that can be read, in small letters."""
    return tuple(FORMATS)


def split_ending(name: str) -> tuple[str, str]:
    """Split a file name into what comes before its ending, and the ending as written, empty if it is unknown.

    Upper and lower case are alike. Before an ending, ``.seg`` belongs to it, as in Slicer's segmentations.
    """
    low = name.lower()
    ending = max((ending for ending in FORMATS if low.endswith(ending)), key=len, default="")
    if ending and low.endswith(SEGMENTATION + ending):
        ending = SEGMENTATION + ending
    return name[: len(name) - len(ending)], name[len(name) - len(ending) :]


def ending_of(path: Path) -> str:
    """Return the ending that says how a file is read and written, in small letters and without ``.seg``.

    Raises:
        InputError: unknown ending.
    """
    ending = split_ending(path.name)[1].lower().removeprefix(SEGMENTATION)
    if not ending:
        raise InputError(
            f"{path}: unknown file ending; expected {', '.join(endings())}; convert it, e.g. with 3D Slicer"
        )
    return ending
