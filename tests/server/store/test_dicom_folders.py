"""Folders of DICOM files as images: listed, copied for 3D Slicer, moved; patient data stays where it is."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from dicom_series import PATIENT, write_series, write_slice
from lib.commands.project import export, unpack
from lib.core.errors import InputError
from lib.server.store.studies import describe_unused
from serving import wait_until, write_label
from stores import SCHEME, open_store

VOXELS = np.arange(120, dtype=np.uint16).reshape(6, 5, 4)
AFFINE = np.array([[-0.75, 0, 0, 20], [0, -0.5, 0, -30], [0, 0, 2, 40], [0, 0, 0, 1]])


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A folder with an annotated series ``scan``."""
    folder = tmp_path / "studies"
    folder.mkdir()
    write_series(folder / "scan", VOXELS)
    (folder / "labels/final").mkdir(parents=True)
    write_label(folder / "labels/final/scan.nii.gz", (VOXELS % 3 + 1).astype(np.uint8), AFFINE)
    return folder


def test_the_copy_has_the_voxels_and_no_patient(studies: Path) -> None:
    store = open_store(studies)
    assert store.list_images() == ["scan"]
    assert store.describe_unused() == []
    copy = store.path_for_slicer("scan")
    image = sitk.ReadImage(str(copy))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, VOXELS)
    np.testing.assert_allclose(image.GetOrigin(), (-20, 30, 40))
    np.testing.assert_allclose(image.GetSpacing(), (0.75, 0.5, 2))
    assert PATIENT.encode() not in copy.read_bytes()
    assert "Doe" not in str(store.get_image_info("scan"))


def test_archives_for_clients_hold_the_copy_and_projects_hold_the_files(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    with zipfile.ZipFile(store.get_dataset_archive(None)) as archive:
        assert sorted(archive.namelist()) == ["image/scan.nrrd", "label/scan.nii.gz", "metadata.json"]
        assert not any(b"Doe" in archive.read(name) for name in archive.namelist())
    export(studies, studies / "models", tmp_path / "project.zip")
    unpack(tmp_path / "project.zip", tmp_path / "moved")
    moved = open_store(tmp_path / "moved")
    assert moved.checksum("scan") == store.checksum("scan")
    np.testing.assert_array_equal(moved.annotated_volume("scan", SCHEME)[1], VOXELS % 3 + 1)


def test_a_changed_slice_is_read_again(studies: Path) -> None:
    store = open_store(studies)
    before, copy = store.checksum("scan"), store.path_for_slicer("scan")
    time = (studies / "scan").stat().st_mtime_ns
    write_slice(studies / "scan/IM900", VOXELS[..., 0] + 5, (-20, 30, 40), "1.2.3.1")
    assert (studies / "scan").stat().st_mtime_ns == time
    assert store.checksum("scan") != before
    assert store.path_for_slicer("scan") == copy
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(copy))).T[..., 0], VOXELS[..., 0] + 5)
    (studies / "scan/IM899").unlink()
    with pytest.raises(InputError, match="missing"):
        store.check_image("scan")


def test_files_that_arrive_one_by_one_are_noticed(studies: Path) -> None:
    store = open_store(studies)
    store.serve(watch=True)
    try:
        write_series(studies / "1.2.840", VOXELS)
        wait_until(lambda: store.list_images() == ["1.2.840", "scan"])
        write_series(studies / "1.2.840", VOXELS, series="1.2.3.9", prefix="b", SeriesNumber=7)
        wait_until(lambda: store.list_images() == ["1.2.840_3-CT", "1.2.840_7-CT", "scan"])
    finally:
        store._observer.stop()


def test_loose_files_and_folders_in_folders_come_with_advice(studies: Path) -> None:
    write_series(studies / "patient", VOXELS).rename(studies / "inner")
    (studies / "patient").mkdir()
    (studies / "inner").rename(studies / "patient/series")
    write_slice(studies / "IM1", VOXELS[..., 0], (0, 0, 0), "1.2")
    said = describe_unused(studies, {"scan"})
    assert [line.split(":")[0] for line in said] == [
        "1 .dcm file (IM1)",
        "4 .dcm files in subfolders (patient/series/IM897, patient/series/IM898, patient/series/IM899, …)",
    ]
    assert all("a folder of their own, in the served folder" in line for line in said)
