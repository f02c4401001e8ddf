"""Headers whose voxels are in a file of their own beside them, the data file."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np

from lib.core.errors import InputError

from .file_checks import reading
from .itk_source import ItkSource

_ENDINGS = (".raw", ".zraw", ".img", ".gz", ".bin", ".dat", ".txt", ".hex")
"""Endings of data files. Other files of a project must not be read as voxels, nor be moved with a header."""


def has_name_of_data(name: str) -> bool:
    """Return whether a file may be a data file, by its name: a plain one, not hidden, with a usual ending."""
    return name.lower().endswith(_ENDINGS) and not name.startswith(".") and not set(name) & set('/\\%:"\0')


def data_file(header: Path, name: str) -> Path:
    """Return the path of the data file that a header names; it may be missing.

    Raises:
        InputError: the name isn't that of one file beside the header, or no name of a data file.
    """
    if not has_name_of_data(name):
        raise InputError(
            f"{header}: the header says that the voxels are in {name[:80]!r}; expected the plain name of one file in "
            f"the same folder that ends in {', '.join(_ENDINGS)}; save the volume as one file, e.g. .nrrd by 3D Slicer"
        )
    return header.with_name(name)


def named_data_file(header: Path, read_name: Callable[[IO[bytes]], str | None]) -> Path:
    """Return the path of the data file that a header names, or of the header itself if it has the voxels.

    Args:
        header: the file.
        read_name: reads the data file's name from the open header; None if the voxels follow the header.

    Raises:
        InputError: the header is damaged, or names no file beside it.
    """
    with reading(header), header.open("rb") as file:
        name = read_name(file)
    return header if name is None else data_file(header, name)


def is_beside(header: Path, data: Path) -> bool:
    """Return whether a data file is there, and no link to another folder."""
    return data.is_file() and data.resolve().parent == header.parent.resolve()


class DetachedHeader(ItkSource):
    """A header with a data file, to be combined with the source of the format of the header."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            InputError: as ``ItkSource``; or the data file is missing, incomplete or in another folder.
        """
        super().__init__(path)
        # Slicer gets copies, and numbers the slices of left-handed ones with one channel from the other end.
        is_left_handed = bool(np.linalg.det(self.geometry.affine[:3, :3]) < 0)
        reverses = is_left_handed and self.geometry.channels == 1
        self.geometry = replace(self.geometry, slicer_affine=None, slicer_reverses=reverses)

    def _data_file(self, name: str) -> Path:
        data = data_file(self.path, name)
        if not is_beside(self.path, data):
            raise InputError(
                f"{self.path}: the voxels are in {name}, which is missing or links to another folder; put both files "
                "into the same folder"
            )
        return data
