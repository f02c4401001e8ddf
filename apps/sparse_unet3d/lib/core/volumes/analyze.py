"""Analyze 7.5 and NIfTI-1 as pairs of files (``.hdr`` and ``.img``)."""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lib.core.errors import InputError

from .data_files import DetachedHeader, data_file
from .itk_source import ItkSource
from .nifti import MAGIC, NiftiSource
from .source import Box


class AnalyzeSource(DetachedHeader, NiftiSource):
    """A header of Analyze 7.5, or of NIfTI-1, with its voxels beside it."""

    def __init__(self, path: Path) -> None:
        """Read the header; for errors see ``DetachedHeader``."""
        super().__init__(path)
        if not self._is_nifti:
            # ITK ignores the header's field for it, because programs disagree about its meaning.
            self.notes = (
                f"{path}: Analyze files don't say which way is left; X counts as towards the left, Y as towards the "
                "back, Z as upwards. If that is wrong, save the volume as .nii.gz",
            )

    @staticmethod
    def data_file(path: Path) -> Path:
        """Return the path of the data file."""
        return data_file(path, path.stem + (".IMG" if path.suffix == ".HDR" else ".img"))

    def read(self, box: Box | None = None) -> NDArray[Any]:
        """Read the voxels of a box (C, X, Y, Z), or all of them; Analyze has no values to rescale.

        Raises:
            InputError: the file is damaged.
            MemoryError: there is not enough memory.
        """
        return super().read(box) if self._is_nifti else ItkSource.read(self, box)

    def _unit_note(self) -> str:
        return super()._unit_note() if self._is_nifti else ItkSource._unit_note(self)

    @property
    def _is_nifti(self) -> bool:
        return self._magic() == b"ni1\0"

    def _find_voxels(self) -> None:
        if self._magic() == b"n+1\0":
            raise InputError(f"{self.path}: the voxels are in this file, as in a NIfTI file; rename it to .nii")
        self._data = self._data_file(self.data_file(self.path).name)
        self._is_compressed, self._start = False, int(self._header["vox_offset"])

    def _magic(self) -> bytes:
        magic: bytes = self._header.binaryblock[MAGIC]
        return magic
