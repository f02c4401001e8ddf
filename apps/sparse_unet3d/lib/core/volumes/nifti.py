"""NIfTI-1 files (``.nii``, ``.nii.gz``)."""

import gzip
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from lib.core.errors import InputError

from .file_checks import BLOCK, MAX_RATIO, inflated, is_gzip, reading
from .itk_source import ItkSource
from .source import Box

_HEADER_BYTES = 348
_NIFTI_2_HEADER_BYTES = 540
_MAGIC = slice(344, 348)

_MAX_RESCALED_RATIO = 8
"""Most bytes that a stored byte takes once its value is rescaled to a floating point number."""


class NiftiSource(ItkSource):
    """A NIfTI-1 file. ITK reads its header; the voxels are read here, since ITK makes NaN and infinite values 0."""

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

    def _inspect(self) -> int:
        path = self.path
        with reading(path):
            self._header = self._read_header()
            needed, size = self._bytes_needed(), path.stat().st_size
            magic = self._header.binaryblock[_MAGIC]
            if magic != b"n+1\0":
                raise InputError(
                    f"{path}: the header says {magic!r}, expected a NIfTI-1 file with the voxels in it (b'n+1\\x00'); "
                    "save header and voxels in one .nii or .nii.gz file"
                )
            ending = path.name[path.name.lower().rfind(".nii") :]
            if ending not in (ending.lower(), ending.upper()):
                raise InputError(
                    f"{path}: 3D Slicer can't open files that end in {ending}; rename it to {ending.lower()}"
                )
            capacity = size * (MAX_RATIO if is_gzip(path) else 1)
            if needed > capacity:
                raise EOFError(f"{size} bytes, expected {needed}{' uncompressed' if capacity > size else ''}")
        return _MAX_RESCALED_RATIO * capacity

    def _verify(self) -> None:
        """Do nothing: ``_channels`` notices missing voxels."""

    def _read_header(self) -> nibabel.Nifti1Header:
        path = self.path
        with gzip.open(path) if is_gzip(path) else path.open("rb") as file:
            content = file.read(_HEADER_BYTES)
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

    def _bytes_needed(self) -> int:
        """Return how many bytes the file must have, uncompressed. ITK reads shorter files as if nothing were missing.

        Raises:
            ValueError: the header describes no array.
        """
        rank, *sizes = self._header["dim"].tolist()
        if not 1 <= rank <= 7 or min(sizes[:rank]) < 1:
            raise ValueError(f"array of shape {tuple(sizes[: max(rank, 0)])}")
        bits, start = int(self._header["bitpix"]), float(self._header["vox_offset"])
        if bits < 1 or start < 0:
            raise ValueError(f"{bits} bits per voxel from byte {start} on")
        voxels: int = math.prod(sizes[:rank])
        return self._start_of_voxels() + voxels * bits // 8

    def _start_of_voxels(self) -> int:
        """Return the position of the first voxel in bytes. As in ITK, voxels never begin within the header."""
        return max(_HEADER_BYTES, int(self._header["vox_offset"]))

    def _channels(self) -> Iterator[NDArray[Any]]:
        stored = self._stored_voxels()
        colours = [stored[name] for name in stored.dtype.names or ()]
        yield from colours or np.moveaxis(stored.reshape(*self.geometry.shape, -1, order="F"), 3, 0)

    def _stored_voxels(self) -> NDArray[Any]:
        """Return the array in the order of the file's axes; its type has fields if the voxels are colours."""
        path, start = self.path, self._start_of_voxels()
        with reading(path), path.open("rb") as file:
            dtype, shape = self._header.get_data_dtype(), self._header.get_data_shape()
            content = np.empty(start + math.prod(shape) * dtype.itemsize, np.uint8)
            at = 0
            for block in inflated(file) if is_gzip(path) else iter(partial(file.read, BLOCK), b""):
                part = np.frombuffer(block, np.uint8)[: len(content) - at]
                content[at : at + len(part)] = part
                at += len(part)
            if at < len(content):
                raise EOFError(f"{at} bytes, expected {len(content)}")
        return np.ndarray(shape, dtype, content.data, offset=start, order="F")
