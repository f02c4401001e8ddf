"""Annotations as DICOM segmentations, decoded by numpy alone, and read back."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from dicom_series import AXIAL, write_series
from lib.core.annotation.statistics import annotation_statistics
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.volumes.dicom import DicomSource
from lib.server.dicomweb.segmentations import image_of, make_segmentation, read_segmentation
from lib.server.records import AnnotationInfo
from orthanc import voxels_of
from serving import SHAPE, paint

SERIES = "1.2.3.1"

OBLIQUE = tuple(np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0][:2].ravel())
"""Directions of the rows and columns of an image that lies aslant."""


def info(**known: Any) -> AnnotationInfo:
    return {
        "version": 3,
        "time": "2026-11-24T03:14:15+02:00",
        "client_id": "Jürgen\\Ann^=é" + "x" * 80,
        "label_names": {"inside": 1, "tubule": 2, "outside": 3},
        "warnings": ["a warning"],
        **known,
    }


def written(folder: Path, made: pydicom.Dataset) -> pydicom.Dataset:
    """Write a segmentation, and read it again."""
    pydicom.dcmwrite(folder / "seg.dcm", made)
    return pydicom.dcmread(folder / "seg.dcm")


def series(folder: Path, image: NDArray[np.int16], **options: Any) -> tuple[DicomSource, list[pydicom.Dataset]]:
    """Write a series, whose files have their names in reverse order; return it with its files in the order of Z."""
    write_series(folder, image, series=SERIES, **options)
    files = [pydicom.dcmread(file) for file in sorted(folder.iterdir(), reverse=True)]
    return DicomSource(folder), files


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE])
@pytest.mark.parametrize("classes", [(1, 2, 3), (1, 3), (3,)])
def test_all_voxels_and_all_names(
    tmp_path: Path, image: NDArray[np.int16], orientation: tuple[float, ...], classes: tuple[int, ...]
) -> None:
    source, files = series(tmp_path / "series", image, orientation=orientation, FrameOfReferenceUID="1.2.3.9")
    annotation = np.where(np.isin(paint(), classes), paint(), 0)
    made = written(tmp_path, make_segmentation(source, annotation, info()))
    assert (voxels_of(made, files) == annotation).all()
    assert [(one.SegmentNumber, one.SegmentLabel) for one in made.SegmentSequence] == [
        (1, "inside"),
        (2, "tubule"),
        (3, "outside"),
    ]
    assert {one.SegmentAlgorithmType for one in made.SegmentSequence} == {"MANUAL"}
    assert (made.Modality, made.SOPClassUID) == ("SEG", "1.2.840.10008.5.1.4.1.1.66.4")
    assert (made.StudyInstanceUID, made.PatientName, made.FrameOfReferenceUID) == ("1.2.3", "Doe^Jane", "1.2.3.9")
    assert (made.ContentLabel, made.ContentDate, made.ContentTime) == ("VERSION_3", "20261124", "011415")
    assert made.SeriesDescription.startswith("Sparse U-Net 3D, version 3, Jürgen Ann")
    assert {file.SOPInstanceUID for file in files} == {
        one.ReferencedSOPInstanceUID for one in made.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    # Read back.
    assert image_of(made) == SERIES
    found = read_segmentation(source, made)
    assert (found.annotation == annotation).all()
    assert (found.version, found.uid) == (3, made.SOPInstanceUID)
    statistics = annotation_statistics(annotation, LabelScheme(("inside", "tubule"), "outside"))
    assert found.info["statistics"] == statistics
    assert {**found.info, **info()} == found.info


def test_equal_versions_are_equal_files(tmp_path: Path, image: NDArray[np.int16]) -> None:
    source, _ = series(tmp_path / "series", image)
    first, again = (make_segmentation(source, paint(), info()) for _ in range(2))
    assert first == again
    other = paint()
    other[0, 0, 0] = 1
    names = info(label_names={"inside": 1, "tube": 2, "outside": 3})
    others = [
        make_segmentation(source, other, info()),
        make_segmentation(source, paint(), info(version=4)),
        make_segmentation(source, paint(), names),
    ]
    for kind in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert len({getattr(one, kind) for one in (first, *others)}) == 4


def test_texts_that_dicom_has_no_room_for(tmp_path: Path, image: NDArray[np.int16]) -> None:
    source, files = series(tmp_path / "series", image, SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jürgen")
    names = {"ein sehr langer Name " * 5: 1, "管": 2, "outside": 3}
    made = written(tmp_path, make_segmentation(source, paint(), info(label_names=names)))
    assert str(made.PatientName) == str(files[0].PatientName) == "Müller^Jürgen"
    assert [len(one.SegmentLabel) for one in made.SegmentSequence] == [64, 1, 7]
    assert made.SegmentSequence[1].SegmentLabel == "管"
    assert read_segmentation(source, made).info["label_names"] == names


def test_files_that_say_little(tmp_path: Path, image: NDArray[np.int16]) -> None:
    source, files = series(tmp_path / "series", image, PatientName=None, PatientID=None)
    made = written(tmp_path, make_segmentation(source, paint(), info(client_id=None)))
    assert (voxels_of(made, files) == paint()).all()
    assert made.SeriesDescription == "Sparse U-Net 3D, version 3"
    assert not made.ContentCreatorName


def test_other_segmentations_are_not_ours(tmp_path: Path, image: NDArray[np.int16]) -> None:
    source, _ = series(tmp_path / "series", image)
    made = make_segmentation(source, paint(), info())
    foreign = written(tmp_path, made)
    foreign.remove_private_tags()
    assert image_of(foreign) is None
    assert image_of(pydicom.Dataset()) is None


@pytest.mark.parametrize("fault", ["no voxels", "no info", "no version", "other image"])
def test_damaged_segmentations_are_refused(tmp_path: Path, image: NDArray[np.int16], fault: str) -> None:
    source, _ = series(tmp_path / "series", image)
    made = written(tmp_path, make_segmentation(source, paint(), info()))
    element = made.private_block(0x0099, "SPARSE_UNET3D")[0x01]
    if fault == "no voxels":
        made.PixelData = made.PixelData[:10]
    elif fault == "no info":
        element.value = "{"
    elif fault == "no version":
        element.value = '{"label_names": {"inside": 1}, "version": "Doe"}'
    else:
        source = DicomSource(write_series(tmp_path / "other", image[:9], series="1.2.3.4"))
    with pytest.raises(InputError, match=r"segmentation 2\.25\.") as error:
        read_segmentation(source, made)
    assert "Doe" not in str(error.value)


def test_size_of_voxels_is_kept(tmp_path: Path, image: NDArray[np.int16]) -> None:
    source, _ = series(tmp_path / "series", image, SliceThickness=3, spacing=(0.5, 0.75))
    assert source.geometry.shape[:3] == SHAPE
    made = make_segmentation(source, paint(), info())
    (measures,) = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    assert (list(measures.PixelSpacing), measures.SliceThickness) == ([0.5, 0.75], 3)
