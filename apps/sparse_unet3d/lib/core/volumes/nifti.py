"""NIfTI-1 files (``.nii``, ``.nii.gz``)."""

import math
from collections.abc import Iterator
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from lib.core.errors import InputError

from .file_checks import MAX_RATIO, MOST_BESIDE, first_bytes, is_gzip, read_compressed, read_stored, reading
from .itk_source import Declared, ItkSource
from .source import Box

_HEADER_BYTES = 348
_NIFTI_2_HEADER_BYTES = 540
MAGIC = slice(344, 348)
"""Bytes of the header that say where the voxels are."""

_PLACES = {
    "qform_code": ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    "sform_code": ("srow_x", "srow_y", "srow_z"),
}
"""Fields that say where the voxels lie, by the field that says whether they count."""

_MAX_RESCALED_RATIO = 8
"""Most bytes that a stored byte takes once its value is rescaled to a floating point number."""


class NiftiSource(ItkSource):
    """A NIfTI-1 file."""

    image_io = "NiftiImageIO"

    def read(self, box: Box | None = None) -> NDArray[Any]:
        """Read the voxels of a box (C, X, Y, Z), or all of them, rescaled as the header asks.

        Raises:
            InputError: the file is damaged.
            MemoryError: there is not enough memory.
        """
        array = super().read(box)
        # As in ITK, an invalid slope or intercept is ignored.
        slope, intercept = (float(self._header[name]) for name in ("scl_slope", "scl_inter"))
        slope = slope if math.isfinite(slope) and abs(slope) > np.finfo(np.float64).eps else 1.0
        intercept = intercept if math.isfinite(intercept) else 0.0
        if self.geometry.dtype.kind == "f" and (slope, intercept) != (1, 0):
            array *= slope
            array += intercept
        return array

    def _unit_note(self) -> str:
        # The lowest three bits are the unit of length.
        return "" if int(self._header["xyzt_units"]) & 7 else super()._unit_note()

    def _inspect(self) -> Declared:
        path = self.path
        with reading(path):
            self._header = self._read_header()
            self._find_voxels()
            # ITK would search without end for the directions of these.
            used = [names for code, names in _PLACES.items() if self._header[code] > 0]
            if not all(np.isfinite(self._header[name]).all() for names in used for name in names):
                raise ValueError("a place in space that is not finite")
            needed, size = self._start + self._bytes_of_voxels(), self._data.stat().st_size
            capacity = size * (MAX_RATIO if self._is_compressed else 1)
            if needed > capacity:
                raise EOFError(f"{size} bytes, expected {needed}{' uncompressed' if capacity > size else ''}")
            values = math.prod(self._header.get_data_shape()) * len(self._header.get_data_dtype().names or [1])
        return Declared(values, _MAX_RESCALED_RATIO * capacity)

    def _read_header(self) -> nibabel.Nifti1Header:
        path, content = self.path, first_bytes(self.path, _HEADER_BYTES)
        # ITK would only say that it can't open such a file.
        if _NIFTI_2_HEADER_BYTES in (int.from_bytes(content[:4], order) for order in ("little", "big")):
            raise InputError(
                f"{path}: a NIfTI-2 file, which 3D Slicer can't open; save it as NIfTI-1, e.g. in Python: image = "
                "nibabel.load(old); nibabel.save(nibabel.Nifti1Image.from_image(image), new)"
            )
        if len(content) == _HEADER_BYTES:
            header = nibabel.Nifti1Header(content, check=False)
            if header["sizeof_hdr"] == _HEADER_BYTES:
                return header
        raise ValueError("no NIfTI header")

    def _bytes_of_voxels(self) -> int:
        """Return how many bytes of voxels the file must have. ITK reads shorter files as if nothing were missing.

        Raises:
            ValueError: the header describes no array.
        """
        rank, *sizes = self._header["dim"].tolist()
        if not 1 <= rank <= 7 or min(sizes[:rank]) < 1:
            raise ValueError(f"array of shape {tuple(sizes[: max(rank, 0)])}")
        code, start = int(self._header["datatype"]), float(self._header["vox_offset"])
        if code not in nibabel.nifti1.data_type_codes.dtype or self._header.get_data_dtype().itemsize == 0:
            raise ValueError(f"voxels of type {code}")
        if not 0 <= start <= MOST_BESIDE:
            raise ValueError(f"voxels from byte {start} on, which may be {MOST_BESIDE} at most")
        voxels: int = math.prod(sizes[:rank])
        return voxels * int(self._header.get_data_dtype().itemsize)

    def _find_voxels(self) -> None:
        """Set ``_data``, the file of the voxels, whether it ``_is_compressed``, and their ``_start`` in it, in bytes.

        Raises:
            InputError: the voxels are in another file, or Slicer can't open a file of this name.
        """
        path, magic = self.path, self._header.binaryblock[MAGIC]
        if magic != b"n+1\0":
            raise InputError(
                f"{path}: the header says {magic!r}, expected a NIfTI-1 file with the voxels in it (b'n+1\\x00'); "
                "save header and voxels in one .nii or .nii.gz file"
            )
        ending = path.name[path.name.lower().rfind(".nii") :]
        if ending not in (ending.lower(), ending.upper()):
            raise InputError(f"{path}: 3D Slicer can't open files that end in {ending}; rename it to {ending.lower()}")
        # As in ITK, voxels never begin within the header.
        self._data, self._is_compressed = path, is_gzip(path)
        self._start = max(_HEADER_BYTES, int(self._header["vox_offset"]))

    def _channels(self) -> Iterator[NDArray[Any]]:
        stored = self._stored_voxels()
        colours = [stored[name] for name in stored.dtype.names or ()]
        yield from colours or np.moveaxis(stored.reshape(*self.geometry.shape, -1, order="F"), 3, 0)

    def _stored_voxels(self) -> NDArray[Any]:
        """Return the array in the order of the file's axes; its type has fields if the voxels are colours."""
        dtype, shape = self._header.get_data_dtype(), self._header.get_data_shape()
        read = read_compressed if self._is_compressed else read_stored
        with reading(self._data):
            content = read(self._data, 0, self._bytes_of_voxels(), self._start)
        return np.ndarray(shape, dtype, content.data, order="F")
