"""Series of DICOM files in a folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pydicom
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.uid import UID

from lib.core.errors import InputError

from .dicom_files import Series, Slice, series_in
from .file_checks import MAX_RATIO
from .itk_source import dtype_of
from .source import Box, shape_of_box
from .volume import LPS_TO_RAS, Affine, Geometry

_STORED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
"""Transfer syntaxes without compression."""

_COMPRESSED = tuple(
    f"1.2.840.10008.1.2.{end}" for end in ("4.50", "4.51", "4.57", "4.70", "4.80", "4.81", "4.90", "4.91", "5")
)
"""Transfer syntaxes that ITK decodes: JPEG, JPEG-LS, JPEG 2000 and RLE."""

_MAX_UNEVEN = 0.01
"""Largest deviation of the distance between two slices, as a part of the usual distance."""

_MAX_TILT = 1e-3
"""Largest cosine of the angle between the stack and a slice; rounded tags reach about half of it."""

_MAX_ASIDE = 0.1
"""How far a slice may lie beside the others, in voxels."""

CONVERT = "convert it with dcm2niix, or load it into 3D Slicer (module DICOM) and save it as .nrrd"


class DicomSource:
    """One series in a folder of DICOM files; slices are sorted by their position, never by name.

    Attributes:
        geometry: X along the rows of a slice, Y down its columns, Z along their normal.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        """Read the tags of all files.

        Args:
            path: the folder, or ``FOLDER/NAME`` for one of several series in it.

        Raises:
            InputError: no series of this name, or it is no even stack of slices that ITK can read.
        """
        self.path = path
        slices = self._chosen(self._series(path if path.is_dir() else path.parent))
        for one in slices:
            self._require_readable(one)
        self._slices, affine = self._stacked(slices)
        first = self._slices[0]
        shape = (first.columns, first.rows, len(slices))
        self.geometry = Geometry(shape, affine, 1, self._dtype(), name=str(path))

    @property
    def files(self) -> tuple[Path, ...]:
        """The file of each slice, in the order of Z."""
        return tuple(one.file for one in self._slices)

    @staticmethod
    def images_in(path: Path) -> tuple[str, ...]:
        """Return the names of the series in a folder; empty if it holds one, or none.

        Raises:
            InputError: the folder can't be read.
        """
        names = tuple(DicomSource._series(path).slices)
        return names if len(names) > 1 else ()

    def read(self, box: Box | None = None) -> NDArray[Any]:
        """Read the voxels of a box (1, X, Y, Z), or all of them, rescaled as ITK does; only slices in the box are read.

        Raises:
            InputError: a file is damaged or incomplete.
            MemoryError: there is not enough memory.
        """
        x, y, z = box or (slice(None),) * 3
        array = np.empty((1, *shape_of_box(box, self.geometry.shape)), self.geometry.dtype)
        for plane, one in zip(np.moveaxis(array[0], 2, 0), self._slices[z], strict=True):
            plane[...] = self._plane(one)[x, y]
        return array

    def working_memory(self, box: Box | None = None) -> int:
        """Return the bytes of a file and of a slice as ITK reads it."""
        x, y, _ = self.geometry.shape
        return 4 * 8 * x * y

    @staticmethod
    def _series(folder: Path) -> Series:
        try:
            return series_in(folder)
        except OSError as error:
            raise InputError(f"{folder}: cannot be read ({error.strerror}); check the permissions") from error

    def _chosen(self, found: Series) -> list[Slice]:
        if found.damaged:
            self._refuse(
                f"{len(found.damaged)} files can't be read, e.g. {found.damaged[0].name}: they are damaged or use a "
                "storage (deflated) that isn't supported; copy them again, or move them out of the folder"
            )
        names = ", ".join(found.slices)
        if not found.slices:
            self._refuse("the folder has no series of at least 2 slices; put all files of a series into it")
        if not self.path.is_dir():
            if self.path.name not in found.slices:
                self._refuse(f"the folder has no series of this name; it has {names}")
            return found.slices[self.path.name]
        if len(found.slices) > 1:
            self._refuse(f"the folder has several series; choose one of {names}")
        return next(iter(found.slices.values()))

    def _require_readable(self, one: Slice) -> None:
        name = one.file.name
        if one.frames > 1:
            self._refuse(f"{name} has {one.frames} slices in one file (multi-frame, enhanced); {CONVERT}")
        if one.samples != 1:
            self._refuse(f"{name} has {one.samples} values in each voxel, expected 1; save the series as grey values")
        if one.syntax not in _STORED + _COMPRESSED:
            self._refuse(f"{name} is stored as {UID(one.syntax).name or 'unknown'}, which can't be read; {CONVERT}")
        if (len(one.position), len(one.orientation), len(one.spacing)) != (3, 6, 2) or not np.isfinite(
            [*one.position, *one.orientation, *one.spacing]
        ).all():
            self._refuse(
                f"{name} doesn't say where its slice lies (Image Position, Image Orientation, Pixel Spacing); export "
                "the series again, or convert it with the voxel size that you know"
            )
        size, needed = one.file.stat().st_size, one.rows * one.columns * one.stored[0] // 8
        if needed > size * (MAX_RATIO if one.syntax in _COMPRESSED else 1):
            self._refuse(f"{name} declares {needed} bytes of voxels, but has {size}; it is incomplete, copy it again")

    def _stacked(self, slices: Sequence[Slice]) -> tuple[list[Slice], Affine]:
        """Sort slices along their normal; return them with the affine from voxels to RAS mm."""
        first = slices[0]
        for what, values, tolerance in (
            ("sizes", [(one.columns, one.rows) for one in slices], 0.0),
            ("orientations", [one.orientation for one in slices], 1e-4),
            ("pixel spacings", [one.spacing for one in slices], 1e-4 * min(first.spacing)),
        ):
            others = np.abs(np.subtract(values, values[0])).max(axis=1) > tolerance
            if others.any():
                self._refuse(
                    f"the slices have several {what}: {first.file.name} has {values[0]}, "
                    f"{slices[int(np.argmax(others))].file.name} has {values[int(np.argmax(others))]}; put the slices "
                    "that belong together into a folder of their own"
                )
        x, y = np.reshape(first.orientation, (2, 3))
        if min(first.spacing) <= 0 or np.abs(np.array([x @ x - 1, y @ y - 1, x @ y])).max() > 1e-3:
            self._refuse(f"{first.file.name} has axes or a pixel spacing that no image has; export the series again")
        normal = np.cross(x, y)
        normal /= np.linalg.norm(normal)
        ordered = sorted(slices, key=lambda one: float(np.dot(one.position, normal)))
        places = np.array([one.position for one in ordered])
        self._require_even(ordered, places @ normal)
        step = (places[-1] - places[0]) / (len(places) - 1)
        distance = float(step @ normal)
        if np.linalg.norm(step - distance * normal) > _MAX_TILT * distance:
            self._refuse(
                "the slices aren't perpendicular to the stack (tilted gantry), which 3D Slicer can't show as recorded; "
                "resample the series onto a straight grid: 3D Slicer's module DICOM does that as it loads it, then "
                "save it as .nrrd"
            )
        aside = np.linalg.norm(places - places[0] - np.arange(len(places))[:, np.newaxis] * step, axis=1)
        if aside.max() > max(_MAX_ASIDE * min(first.spacing), _MAX_UNEVEN * distance):
            self._refuse(f"{ordered[int(aside.argmax())].file.name} lies {aside.max():.3g} mm beside the other slices")
        affine = np.eye(4)
        affine[:3, :3] = np.column_stack([x * first.spacing[1], y * first.spacing[0], normal * distance])
        affine[:3, 3] = places[0]
        return ordered, LPS_TO_RAS @ affine

    def _require_even(self, ordered: Sequence[Slice], along: NDArray[np.float64]) -> None:
        gaps = np.diff(along)
        # The lower median, since missing slices only make gaps wider.
        apart = np.sort(gaps[gaps > _MAX_UNEVEN * gaps.max()])
        usual = float(apart[(len(apart) - 1) // 2]) if len(apart) else 0.0
        same = np.flatnonzero(gaps <= _MAX_UNEVEN * usual)
        if len(same):
            pair = " and ".join(one.file.name for one in ordered[same[0] : same[0] + 2])
            self._refuse(
                f"{len(same)} slices lie where others lie, e.g. {pair}: a slice exists twice, or the series has "
                "several points in time or echoes; put the files of each into a folder of their own"
            )
        wrong = np.abs(gaps / usual - 1)
        if wrong.max() > _MAX_UNEVEN:
            at = int(wrong.argmax())
            pair = " and ".join(one.file.name for one in ordered[at : at + 2])
            self._refuse(
                f"slices are missing, or lie unevenly: {gaps[at]:.4g} mm between {pair}, but {usual:.4g} mm between "
                "others; add the missing files, or resample the series onto an even grid"
            )

    def _dtype(self) -> np.dtype[Any]:
        """Return the type in which ITK's values of all slices fit."""
        dtype = np.dtype(np.uint8)
        for one in {one.stored: one for one in self._slices}.values():
            reader = self._reader(one)
            try:
                reader.ReadImageInformation()
            except RuntimeError:
                self._refuse_file(one)
            dtype = np.result_type(dtype, dtype_of(reader))
            if dtype == np.float64:
                break
        return dtype

    def _plane(self, one: Slice) -> NDArray[Any]:
        """Read a slice (X, Y)."""
        try:
            stored = len(pydicom.dcmread(one.file, specific_tags=["PixelData"]).PixelData)
            image = self._reader(one).Execute()
        # Messages of the libraries may quote tags.
        except Exception:
            self._refuse_file(one)
        needed = one.rows * one.columns * one.stored[0] // 8
        array: NDArray[Any] = sitk.GetArrayFromImage(image)
        if (one.syntax in _STORED and stored < needed) or array.size != one.rows * one.columns:
            self._refuse_file(one)
        return array.reshape(one.rows, one.columns).T

    @staticmethod
    def _reader(one: Slice) -> sitk.ImageFileReader:
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(one.file))
        return reader

    def _refuse_file(self, one: Slice) -> NoReturn:
        self._refuse(f"the voxels of {one.file.name} can't be read; it is damaged or incomplete, copy it again")

    def _refuse(self, why: str) -> NoReturn:
        raise InputError(f"{self.path}: {why}") from None
