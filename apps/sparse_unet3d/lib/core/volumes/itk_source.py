"""Files whose headers ITK reads: their channels, axes and millimetres, as 3D Slicer understands them.

People annotate in Slicer, which reads files with ITK. This module uses ITK too, so that ITK's rules for headers apply.
Subclasses read the voxels, since ITK doesn't check enough: it allocates whatever a header declares, may follow a header
to another file, fills truncated or damaged voxels with whatever was in memory, and makes NaN 0 in NIfTI files.
Subclasses also know how Slicer's scene differs from what ITK reads.
"""

import errno
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from lib.core.errors import InputError

from .source import Box, shape_of_box
from .volume import LPS_TO_RAS, Affine, Geometry
from .voxel_order import copy_voxels, in_order_of_files

_MAX_SHEAR = 2e-4
"""Largest cosine of the angle between two axes. ITK opens no NIfTI file with a larger one, and Slicer no NRRD file."""

# ITK's warnings would go to the server's terminal, where nobody can act on them.
sitk.ProcessObject.SetGlobalWarningDisplay(False)


class Declared(NamedTuple):
    """What a header says of the voxels, read without ITK.

    Attributes:
        values: how many numbers the header declares.
        capacity: how many bytes of voxels the file can hold at most, compressed or not.
    """

    values: int
    capacity: int


class ItkSource(ABC):
    """A file whose header ITK reads.

    Attributes:
        geometry: what the header says.
        fields: all other entries of the header by their names, e.g. the segments of a Slicer segmentation.
    """

    image_io: ClassVar[str]
    """ITK's reader and writer. ITK must not choose it: a file of another format has another header."""

    notes: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            InputError: no such file, damaged, 3D Slicer can't open it, fewer than three axes, several points in time,
                complex values, impossible or sheared geometry.
        """
        self.path = path
        if not path.is_file():
            raise InputError(f"{path}: no such file; check the path")
        declared = self._inspect()
        reader = self._reader()
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            raise _unreadable(path, error) from error

        axes, components, size = reader.GetDimension(), reader.GetNumberOfComponents(), reader.GetSize()
        if axes < 3:
            raise InputError(
                f"{path}: a 2-D image (array of shape {size}); expected a volume with at least 2 voxels along each of "
                "3 axes"
            )
        if axes > 5 or (axes == 5 and size[3] != 1) or (axes > 3 and components > 1):
            raise InputError(
                f"{path}: the array has shape {size} with {components} components in each voxel; expected (X, Y, Z), "
                "(X, Y, Z, C) or (X, Y, Z, 1, C); save one point in time per file"
            )
        if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
            raise _complex(path)

        affine = np.eye(4)
        affine[:3, :3] = (np.reshape(reader.GetDirection(), (axes, axes)) * reader.GetSpacing())[:3, :3]
        affine[:3, 3] = reader.GetOrigin()[:3]
        affine = LPS_TO_RAS @ affine
        _check_affine(path, affine)
        shape = (size[0], size[1], size[2])
        slicer_affine, slicer_reverses = self._as_in_slicer(shape, affine, axes, components)
        channels = components * math.prod(size[3:])
        self.geometry = Geometry(
            shape,
            affine,
            channels,
            dtype_of(reader),
            slicer_affine,
            str(path),
            slicer_reverses,
            unit_note=self._unit_note(),
        )
        # Bytes that aren't UTF-8 come as characters that can't be sent on.
        keys = [key for key in reader.GetMetaDataKeys() if key.isascii()]
        self.fields = {key: reader.GetMetaData(key).encode(errors="replace").decode() for key in keys}
        if channels * math.prod(shape) != declared.values:
            raise InputError(
                f"{path}: the header declares {declared.values} values, but ITK understands shape {size} with "
                f"{components} components; the file is damaged, copy or export it again"
            )
        if self.geometry.nbytes > declared.capacity:
            raise InputError(
                f"{path}: the header declares {self.geometry.nbytes} bytes of voxels (shape {size}), but the file can "
                f"hold {declared.capacity} at most; the file is damaged or incomplete, copy or export it again"
            )

    def _unit_note(self) -> str:
        """Return ``Geometry.unit_note``."""
        return f"{self.path}: the file states no unit of length; its numbers count as millimetres, as in 3D Slicer"

    def read(self, box: Box | None = None) -> NDArray[Any]:
        """Read the voxels of a box (C, X, Y, Z), or all of them; the whole file is read in any case.

        Raises:
            InputError: the file is damaged.
            MemoryError: there is not enough memory.
        """
        geometry = self.geometry
        array = np.empty((geometry.channels, *shape_of_box(box, geometry.shape)), geometry.dtype)
        for channel, of_file in zip(array, self._channels(), strict=True):
            copy_voxels(of_file[box or ...], channel)
        return array

    def working_memory(self, box: Box | None = None) -> int:
        """Return the bytes of the whole file's voxels, which are in memory while any are read."""
        return self.geometry.nbytes

    @classmethod
    def write(cls, path: Path, array: NDArray[np.uint8], affine: Affine) -> None:
        """Write a label map, compressed where the format allows it; in NIfTI, qform and sform agree.

        Args:
            path: where to write.
            array: (X, Y, Z).
            affine: (4, 4) voxel to RAS mm.

        Raises:
            OSError: it can't be written.
        """
        # SimpleITK reorders voxels, too, but takes much longer.
        cls._write(path, sitk.GetImageFromArray(in_order_of_files(array).T), affine, is_compressed=True)

    @classmethod
    def _write(cls, path: Path, image: sitk.Image, affine: Affine, is_compressed: bool) -> None:
        lps = LPS_TO_RAS @ affine
        spacing = np.linalg.norm(lps[:3, :3], axis=0)
        image.SetSpacing(spacing.tolist())
        image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        writer = sitk.ImageFileWriter()
        writer.SetImageIO(cls.image_io)
        writer.SetFileName(str(path))
        writer.SetUseCompression(is_compressed)
        writer.SetCompressionLevel(1)
        try:
            writer.Execute(image)
        except RuntimeError as error:
            # ITK doesn't say why; the system does, if it is still so.
            with path.open("ab"):
                pass
            raise OSError(errno.EIO, f"cannot be written ({error})", str(path)) from error

    @abstractmethod
    def _inspect(self) -> Declared:
        """Look at the header before ITK does.

        Raises:
            InputError: damaged or incomplete, Slicer can't open it, or the voxels are in another file.
        """

    def _data_file(self, name: str) -> Path:
        """Return the file of the voxels, which has this name according to the header.

        Raises:
            InputError: files of this ending must have the voxels in them.
        """
        raise InputError(f"{self.path}: the voxels are in another file; save header and voxels in one file")

    @abstractmethod
    def _channels(self) -> Iterator[NDArray[Any]]:
        """Yield each channel's voxels (X, Y, Z) in any memory order and byte order; use each before the next one.

        Raises:
            InputError: the file is damaged or incomplete.
            MemoryError: there is not enough memory.
        """

    def _as_in_slicer(
        self, shape: tuple[int, int, int], affine: Affine, axes: int, components: int
    ) -> tuple[Affine | None, bool]:
        """Return how 3D Slicer's scene has the file.

        Args:
            shape: (X, Y, Z).
            affine: (4, 4) voxel to RAS mm, as ITK reads it.
            axes: of the file's array.
            components: of each voxel.

        Returns:
            (4, 4) Slicer's affine, or None where it is ITK's; and whether Slicer numbers the slices along Z from the
            other end.
        """
        if axes > 3:
            # Slicer asks ITK for three axes of such a file, and ITK then drops the directions. Slicer reverses only
            # left-handed grids, and without directions the grid is right-handed.
            misread: Affine = LPS_TO_RAS @ np.diag([*np.linalg.norm(affine[:3, :3], axis=0), 1.0])
            misread[:3, 3] = affine[:3, 3]
            return misread, False
        return None, bool(np.linalg.det(affine[:3, :3]) < 0)

    def _reader(self) -> sitk.ImageFileReader:
        reader = sitk.ImageFileReader()
        reader.SetImageIO(self.image_io)
        reader.SetFileName(str(self.path))
        return reader


def dtype_of(reader: sitk.ImageFileReader) -> np.dtype[Any]:
    """Return the type of an image's array, found from a small image with the same type of pixels."""
    small = sitk.Image([1, 1], reader.GetPixelID(), 1)
    dtype: np.dtype[Any] = sitk.GetArrayViewFromImage(small).dtype
    return dtype


def _unreadable(path: Path, error: RuntimeError) -> InputError:
    """Say why ITK can't open a file."""
    if "orthonormal" in str(error):
        return _sheared(path)
    if "Only Complex image" in str(error):
        return _complex(path)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = re.sub(r"^.*\(0x[0-9a-f]+\): ", "", lines[-1]) if lines else "no reason given"
    return InputError(
        f"{path}: cannot be read, and 3D Slicer can't open it either ({reason}); the file is damaged or "
        "incomplete, or its header breaks the rules of its format; copy or export it again"
    )


def _complex(path: Path) -> InputError:
    return InputError(f"{path}: the values are complex; expected integers or real numbers, save e.g. the magnitude")


def _sheared(path: Path) -> InputError:
    return InputError(
        f"{path}: the axes of the voxels aren't perpendicular (sheared, as from a tilted gantry), which 3D Slicer "
        "can't open or save in NIfTI files; resample the volume onto a straight grid, e.g. by SimpleITK.Resample, or "
        "correct the header (NIfTI: set a qform)"
    )


def _check_affine(path: Path, affine: Affine) -> None:
    """Refuse a grid without volume, which ITK opens in some formats, and a sheared one, which Slicer doesn't open."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        size = np.linalg.norm(affine[:3, :3], axis=0)
        cosines = (affine[:3, :3] / size).T @ (affine[:3, :3] / size)
    if not np.isfinite(affine).all() or not np.isfinite(cosines).all() or abs(np.linalg.det(cosines)) < 1e-6:
        raise InputError(
            f"{path}: the affine {affine[:3].tolist()} places no volume in space; expected a voxel size above 0 along "
            "three different directions, correct the header"
        )
    if np.abs(cosines - np.eye(3)).max() > _MAX_SHEAR:
        raise _sheared(path)
