"""The file formats, by file ending. To add a format, add one entry to ``FORMATS``."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import InputError

from .analyze import AnalyzeSource
from .czi import CziSource
from .dicom import DicomSource
from .dicom_files import is_dicom_folder
from .imaris import ImarisSource
from .lif import LifSource
from .meta_image import MetaImageHeaderSource, MetaImageSource
from .nd2 import Nd2Source
from .nifti import NiftiSource
from .nrrd import NrrdHeaderSource, NrrdSource
from .ome_zarr import OmeZarrSource
from .source import VolumeSource
from .tiff import TiffSource
from .volume import Affine


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        open: the class that reads an image.
        write: writes a label map (X, Y, Z); None for formats that are only read.
        images_in: returns the names of the images in one file, where it may hold several; empty if it holds one.
        is_folder: whether an image is a folder.
        data_file: returns the file of the voxels, if the format has its header in a file of its own. It may be missing.
        is_private: whether a file says who the patient is, and must not leave the server.
        in_slicer: whether 3D Slicer opens a single file and finds the geometry that ``open`` finds.
    """

    open: Callable[[Path], VolumeSource]
    write: Callable[[Path, NDArray[np.uint8], Affine], None] | None = None
    images_in: Callable[[Path], tuple[str, ...]] | None = None
    is_folder: bool = False
    data_file: Callable[[Path], Path] | None = None
    is_private: bool = False
    in_slicer: bool = True

    @property
    def is_one_file(self) -> bool:
        """Whether an image is a single file, which clients can send."""
        return not self.is_folder and self.data_file is None


_TIFF = Format(TiffSource, TiffSource.write, TiffSource.images_in, in_slicer=False)
_ZARR = Format(OmeZarrSource, images_in=OmeZarrSource.images_in, is_folder=True, in_slicer=False)

FORMATS = {
    ".nii": Format(NiftiSource, NiftiSource.write),
    ".nii.gz": Format(NiftiSource, NiftiSource.write),
    ".nrrd": Format(NrrdSource, NrrdSource.write),
    ".mha": Format(MetaImageSource, MetaImageSource.write),
    # Slicer's plugin fetches a single file.
    ".nhdr": Format(NrrdHeaderSource, data_file=NrrdHeaderSource.data_file, in_slicer=False),
    ".mhd": Format(MetaImageHeaderSource, data_file=MetaImageHeaderSource.data_file, in_slicer=False),
    ".hdr": Format(AnalyzeSource, data_file=AnalyzeSource.data_file, in_slicer=False),
    # Slicer opens some TIFF files, but without their voxel size.
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".ome.tif": _TIFF,
    ".ome.tiff": _TIFF,
    ".zarr": _ZARR,
    ".ome.zarr": _ZARR,
    ".lif": Format(LifSource, images_in=LifSource.images_in, in_slicer=False),
    ".nd2": Format(Nd2Source, images_in=Nd2Source.images_in, in_slicer=False),
    ".czi": Format(CziSource, images_in=CziSource.images_in, in_slicer=False),
    ".ims": Format(ImarisSource, images_in=ImarisSource.images_in, in_slicer=False),
}
"""The formats, by file ending in lower case."""

DICOM = Format(DicomSource, images_in=DicomSource.images_in, is_folder=True, is_private=True, in_slicer=False)
"""The format of folders without any of these endings that hold DICOM files."""

SEGMENTATION = ".seg"
"""Part of a name that 3D Slicer puts before the file ending of its segmentations."""


def open_file(path: Path) -> VolumeSource:
    """Open one file (or folder), or one of several images in it, by its ending.

    Args:
        path: the file; ``FILE/NAME`` for the image of that name in a file that holds several.

    Raises:
        InputError: unknown ending, or the source can't use the file.
    """
    return format_of(path).open(path)


def format_of(path: Path) -> Format:
    """Return the format of an image, or of one of several images in a file or folder.

    Raises:
        InputError: unknown ending.
    """
    file = file_of(path)
    return DICOM if is_dicom(file) else FORMATS[ending_of(file)]


def is_dicom(path: Path) -> bool:
    """Return whether a path is a folder of DICOM files, which may have any name without a known ending."""
    return not split_ending(path.name)[1] and is_dicom_folder(path)


def file_of(path: Path) -> Path:
    """Return the file (or folder) that holds an image: the path itself, or FILE for ``FILE/NAME``."""
    of_parent = FORMATS.get(split_ending(path.parent.name)[1].lower())
    if of_parent and of_parent.images_in and not (split_ending(path.name)[1] and path.exists()):
        is_image = path.parent.is_dir() if of_parent.is_folder else path.parent.is_file()
        return path.parent if is_image else path
    if not split_ending(path.name)[1] and is_dicom(path.parent) and not path.exists():
        return path.parent
    return path


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
