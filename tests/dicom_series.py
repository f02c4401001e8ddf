"""DICOM series, written by pydicom, with a patient's name that must not appear anywhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

PATIENT = "Doe^Jane"
CT = "1.2.840.10008.5.1.4.1.1.2"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def write_slice(
    path: Path,
    pixels: NDArray[Any],
    position: Sequence[float],
    series: str,
    *,
    orientation: Sequence[float] = AXIAL,
    spacing: Sequence[float] = (0.5, 0.75),
    slope: float = 1,
    intercept: float = 0,
    **tags: Any,
) -> Path:
    """Write a slice (X, Y).

    Args:
        path: the file.
        pixels: 16-bit integers.
        position: of the first voxel, LPS mm.
        series: the series' unique id.
        orientation: directions of X and Y in LPS.
        spacing: size along Y, then X, in mm.
        slope, intercept: what rescales the values.
        tags: further ones; None removes a tag.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(CT), generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    data.is_little_endian, data.is_implicit_VR = True, False
    data.SOPClassUID, data.SOPInstanceUID = CT, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID, data.StudyDescription = PATIENT, PATIENT, PATIENT
    data.SeriesDescription = PATIENT
    data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.3", series
    data.Modality, data.SeriesNumber, data.ImageType = "CT", 3, ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.ImagePositionPatient = [f"{value:.9g}"[:16] for value in position]
    data.ImageOrientationPatient = [f"{value:.9f}" for value in orientation]
    data.PixelSpacing = list(spacing)
    data.Columns, data.Rows = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.RescaleSlope, data.RescaleIntercept = slope, intercept
    data.PixelData = np.ascontiguousarray(pixels.T).tobytes()
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    pydicom.dcmwrite(path, data, write_like_original=False)
    return path


def write_series(
    folder: Path,
    array: NDArray[Any],
    *,
    orientation: Sequence[float] = AXIAL,
    step: Sequence[float] | None = None,
    origin: Sequence[float] = (-20, 30, 40),
    series: str = "1.2.3.1",
    prefix: str = "",
    **options: Any,
) -> Path:
    """Write (X, Y, Z) with file names in the reverse order of the slices; return the folder.

    Args:
        folder: where; it is created.
        array: 16-bit integers.
        orientation: directions of X and Y in LPS.
        step: from a slice to the next in mm; None for 2 mm along the normal.
        origin: LPS mm of the first voxel.
        series: its unique id.
        prefix: of the file names.
        options: of ``write_slice``.
    """
    folder.mkdir(exist_ok=True)
    x, y = np.reshape(orientation, (2, 3))
    along = 2 * np.cross(x, y) if step is None else np.array(step)
    for k in range(array.shape[2]):
        name = folder / f"{prefix}IM{900 - k}"
        write_slice(name, array[..., k], np.array(origin) + k * along, series, orientation=orientation, **options)
    return folder
