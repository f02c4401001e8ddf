"""DICOM series, written by pydicom and compared with ITK's reader of series."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.encaps import encapsulate
from pydicom.uid import MPEG4HP41, JPEG2000Lossless, RLELossless
from pydicom.uid import DeflatedExplicitVRLittleEndian as DEFLATED
from scipy.spatial.transform import Rotation

from dicom_series import PATIENT, write_series, write_slice
from lib.core.errors import InputError
from lib.core.volumes.formats import file_of
from lib.core.volumes.image_files import all_files, images_in
from lib.core.volumes.reading import open_image, read_volume

SHAPE = (6, 5, 4)
VOXELS = np.random.default_rng(0).integers(0, 4000, SHAPE).astype(np.uint16)
OBLIQUE = Rotation.from_euler("xyz", (10, -25, 70), degrees=True).as_matrix()
ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "coronal": (1, 0, 0, 0, 0, -1),
    "oblique": (*OBLIQUE[:, 0], *OBLIQUE[:, 1]),
    "feet first": (-1, 0, 0, 0, 1, 0),
}


def by_itk(folder: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return voxels (X, Y, Z) and the affine to RAS mm."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T, np.diag([-1, -1, 1, 1]) @ affine


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_voxels_and_geometry_are_those_of_itk(name: str, tmp_path: Path) -> None:
    folder = write_series(tmp_path / "scan", VOXELS, orientation=ORIENTATIONS[name], intercept=-1024)
    voxels, affine = by_itk(folder)
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.array[0], voxels)
    np.testing.assert_array_equal(volume.array[0], VOXELS.astype(int) - 1024)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-6)
    assert volume.array.dtype == voxels.dtype
    assert not volume.slicer_reverses
    box = (slice(1, 5), slice(2, 4), slice(1, 3))
    np.testing.assert_array_equal(open_image(folder).read(box)[0], voxels[box])


def test_slices_are_sorted_by_place_along_the_normal(tmp_path: Path) -> None:
    """Also if the series was recorded against it."""
    folder = write_series(tmp_path / "scan", VOXELS, step=(0, 0, -2))
    np.testing.assert_array_equal(read_volume(folder).array[0], VOXELS[..., ::-1])
    np.testing.assert_array_equal(by_itk(folder)[0], VOXELS[..., ::-1])
    np.testing.assert_allclose(read_volume(folder).affine, by_itk(folder)[1], atol=1e-6)


def test_values_are_rescaled_in_each_slice(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "scan", VOXELS, slope=0.25, intercept=3)
    np.testing.assert_array_equal(read_volume(folder).array[0], by_itk(folder)[0])
    np.testing.assert_array_equal(read_volume(folder).array[0], VOXELS * 0.25 + 3)
    for k in range(4):
        write_slice(folder / f"IM{900 - k}", VOXELS[..., k], (-20, 30, 40 + 2 * k), "1.2.3.1", slope=k + 1)
    np.testing.assert_array_equal(read_volume(folder).array[0], VOXELS.astype(int) * [1, 2, 3, 4])


def test_compressed_slices_are_decoded(tmp_path: Path) -> None:
    # ITK can't read smaller ones.
    voxels = np.random.default_rng(0).integers(0, 4000, (64, 48, 3)).astype(np.uint16)
    folder = write_series(tmp_path / "scan", voxels)
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        data.compress(RLELossless)
        data.save_as(file)
    np.testing.assert_array_equal(read_volume(folder).array[0], voxels)
    damaged = folder / "IM899"
    damaged.write_bytes(damaged.read_bytes()[:-40])
    with pytest.raises(InputError, match="IM899 can't be read"):
        read_volume(folder)


def test_each_series_is_an_image_named_without_patient_data(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "scan", VOXELS)
    assert {name: (one.path, one.ending) for name, one in images_in(tmp_path).items()} == {"scan": (folder, "")}
    write_series(folder, VOXELS + 1, series="1.2.3.2", prefix="b")
    write_series(folder, VOXELS + 2, series="1.2.3.3", prefix="c", SeriesNumber=12, Modality="MR")
    write_series(folder, VOXELS + 3, series="1.2.3.4", prefix="d", SeriesNumber=None, Modality=PATIENT)
    found = images_in(tmp_path)
    assert list(found) == ["scan_12-MR", "scan_3-CT", "scan_3-CT-2", "scan_series"]
    for name, more in {"scan_3-CT": 0, "scan_3-CT-2": 1, "scan_12-MR": 2, "scan_series": 3}.items():
        assert file_of(found[name].path) == folder
        np.testing.assert_array_equal(read_volume(found[name].path).array[0], VOXELS + more)
    with pytest.raises(InputError, match="several series; choose one of series, 3-CT, 3-CT-2, 12-MR"):
        open_image(folder)


def test_other_objects_and_files_are_ignored(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "scan", VOXELS)
    write_slice(folder / "scout", VOXELS[..., 0], (9, 9, 9), "1.2.3.5")
    write_slice(folder / "seg", VOXELS[..., 0], (9, 9, 9), "1.2.3.1", Modality="SEG")
    write_slice(folder / "report", VOXELS[..., 0], (9, 9, 9), "1.2.3.1", Modality="SR", Rows=None, PixelData=None)
    write_slice(
        folder / "localizer", VOXELS[..., 0], (9, 9, 9), "1.2.3.1", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    (folder / "README").write_text("not DICOM")
    (folder / ".hidden").write_bytes((folder / "IM900").read_bytes())
    (tmp_path / "secret").write_bytes((folder / "IM900").read_bytes())
    (folder / "link").symlink_to(tmp_path / "secret")
    assert list(images_in(tmp_path)) == ["scan"]
    np.testing.assert_array_equal(read_volume(folder).array[0], VOXELS)
    assert not {folder / "link", folder / ".hidden"} & set(all_files(folder))


def test_only_folders_of_dicom_files_are_images(tmp_path: Path) -> None:
    scan = write_series(tmp_path / "scan", VOXELS)
    for name in ("labels", "models", "predictions", ".slicer"):
        shutil.copytree(scan, tmp_path / name)
    shutil.copytree(scan, tmp_path / "patient/scan")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("text")
    shutil.copy(scan / "IM900", tmp_path)
    assert list(images_in(tmp_path)) == ["scan"]


def test_what_is_in_a_folder_is_looked_up_again_when_it_changes(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "scan", VOXELS)
    assert list(images_in(tmp_path)) == ["scan"]
    write_series(folder, VOXELS, series="1.2.3.2", prefix="b", SeriesNumber=4)
    assert list(images_in(tmp_path)) == ["scan_3-CT", "scan_4-CT"]


def rewrite(folder: Path, k: int, **options: Any) -> None:
    """Write slice ``k`` anew."""
    place = options.pop("position", (-20, 30, 40 + 2 * k))
    write_slice(folder / f"IM{900 - k}", options.pop("pixels", VOXELS[..., k]), place, "1.2.3.1", **options)


def cut(file: Path, count: int) -> None:
    file.write_bytes(file.read_bytes()[:-count])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: (d / "IM899").unlink(), "missing, or lie unevenly: 4 mm between IM900 and IM898, but 2 mm"),
        (lambda d: rewrite(d, 2, position=(-20, 30, 44.03)), "lie unevenly"),
        (lambda d: shutil.copy(d / "IM899", d / "again"), "lie where others lie, e.g. IM899 and again"),
        (lambda d: write_series(d, VOXELS, prefix="t"), "4 slices lie where others lie.*points in time"),
        (lambda d: write_series(d, VOXELS, step=(0, 0.2, 2)), "tilted gantry"),
        (lambda d: rewrite(d, 2, position=(-20, 31, 44)), "IM898 lies 1 mm beside"),
        (lambda d: rewrite(d, 2, orientation=(0, 1, 0, 1, 0, 0)), "several orientations.*IM89. has"),
        (lambda d: rewrite(d, 2, spacing=(0.5, 0.8)), "several pixel spacings"),
        (lambda d: rewrite(d, 2, pixels=VOXELS[:, :4, 2]), "several sizes"),
        (lambda d: rewrite(d, 2, ImagePositionPatient=None), "IM898 doesn't say where"),
        (lambda d: rewrite(d, 2, PixelSpacing=None), "IM898 doesn't say where"),
        (lambda d: rewrite(d, 2, NumberOfFrames=4), "4 slices in one file"),
        (lambda d: rewrite(d, 2, SamplesPerPixel=3), "3 values in each voxel"),
        (lambda d: rewrite(d, 2, Rows=40000, Columns=40000), "incomplete, copy it again"),
        (lambda d: cut(d / "IM898", 20), "voxels of IM898 can't be read"),
        (lambda d: (d / "IM898").write_bytes(bytes(128) + b"DICM" + bytes(50)), "1 files can't be read, e.g. IM898"),
        (lambda d: [file.unlink() for file in d.glob("IM89*")], "no series of at least 2 slices"),
        (lambda d: write_series(d, VOXELS, orientation=(1, 0, 0, 1, 0, 0)), "axes or a pixel spacing"),
        (lambda d: write_series(d, VOXELS, orientation=(1, 0, 0, 0, 1, float("nan"))), "can't be read|doesn't say"),
    ],
)
def test_what_is_no_even_stack_is_refused_by_name(
    change: Callable[[Path], Any],
    words: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = write_series(tmp_path / "scan", VOXELS)
    change(folder)
    with caplog.at_level(logging.DEBUG), pytest.raises(InputError, match=words) as refused:
        read_volume(folder)
    said = "".join([str(refused.value), caplog.text, *capfd.readouterr()])
    assert "Doe" not in said
    assert str(folder) in str(refused.value)


@pytest.mark.parametrize(
    ("syntax", "words"), [(MPEG4HP41, "stored as MPEG-4"), (JPEG2000Lossless, "can't be read"), (DEFLATED, "deflated")]
)
def test_storage_that_cannot_be_decoded_is_refused_by_name(syntax: str, words: str, tmp_path: Path) -> None:
    folder = write_series(tmp_path / "scan", VOXELS)
    for file in folder.iterdir():
        data = pydicom.dcmread(file)
        data.file_meta.TransferSyntaxUID = syntax
        if syntax != DEFLATED:
            data.PixelData = encapsulate([b"no picture"])
            data["PixelData"].is_undefined_length = True
        data.save_as(file)
    with pytest.raises(InputError, match=words):
        read_volume(folder)
