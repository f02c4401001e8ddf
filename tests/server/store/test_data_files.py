"""Images whose voxels are in a file beside the header: listed, copied for 3D Slicer, checked, moved."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from lib.commands.project import export, unpack
from lib.core.errors import InputError
from lib.server.store.studies import describe_unused
from serving import write_label
from stores import SCHEME, open_store

SHAPE = (6, 5, 4)
VOXELS = np.arange(120, dtype=np.int16).reshape(SHAPE)
LEFT_HANDED = np.diag([1.0, -1.0, 1.0])


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A folder with an image of each format."""
    (tmp_path / "studies").mkdir()
    image = sitk.GetImageFromArray(VOXELS.T)
    image.SetDirection(LEFT_HANDED.ravel().tolist())
    for name in ("m.mhd", "n.nhdr"):
        sitk.WriteImage(image, str(tmp_path / "studies" / name), useCompression=True)
    sitk.WriteImage(image, str(tmp_path / "studies" / "h.hdr"))
    return tmp_path / "studies"


def test_copies_lie_where_the_images_lie(studies: Path) -> None:
    store = open_store(studies)
    assert store.list_images() == ["h", "m", "n"]
    assert store.describe_unused() == []
    for name in store.list_images():
        copy = sitk.ReadImage(str(store.path_for_slicer(name)))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(copy).T, VOXELS)
        assert copy.GetDirection() == tuple(LEFT_HANDED.ravel())


def test_a_changed_data_file_is_read_again(studies: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS.T), str(studies / "m.mhd"))
    store = open_store(studies)
    before, header = store.checksum("m"), (studies / "m.mhd").stat().st_mtime_ns
    store.path_for_slicer("m")
    (studies / "m.raw").write_bytes((VOXELS.T + 1).tobytes())
    assert (studies / "m.mhd").stat().st_mtime_ns == header
    assert store.checksum("m") != before
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(store.path_for_slicer("m")))).T, VOXELS + 1)
    (studies / "m.raw").unlink()
    with pytest.raises(InputError, match="missing"):
        store.check_image("m")
    assert store.is_unreadable("m")
    (studies / "m.raw").write_bytes(VOXELS.T.tobytes())
    assert not store.is_unreadable("m")
    store.check_image("m")


def test_data_files_are_moved_with_their_headers(studies: Path, tmp_path: Path) -> None:
    annotation = (VOXELS % 3 + 1).astype(np.uint8)
    (studies / "labels/final").mkdir(parents=True)
    write_label(studies / "labels/final/m.nii.gz", annotation, np.diag([-1.0, 1, 1, 1]))
    store = open_store(studies)
    with zipfile.ZipFile(store.get_dataset_archive(None)) as archive:
        assert sorted(archive.namelist()) == ["image/m.mhd", "image/m.zraw", "label/m.nii.gz", "metadata.json"]
    export(studies, studies / "models", tmp_path / "project.zip")
    unpack(tmp_path / "project.zip", tmp_path / "moved")
    moved = open_store(tmp_path / "moved")
    for name in moved.list_images():
        assert moved.checksum(name) == store.checksum(name)
    np.testing.assert_array_equal(moved.annotated_volume("m", SCHEME)[1], annotation)


def test_data_files_in_subfolders_are_not_named(studies: Path, tmp_path: Path) -> None:
    studies.rename(tmp_path / "inner")
    studies.mkdir()
    (tmp_path / "inner").rename(studies / "inner")
    (said,) = describe_unused(studies, ())
    assert said.startswith("3 volumes in subfolders (inner/h.hdr, inner/m.mhd, inner/n.nhdr)")


def test_a_lone_data_file_comes_with_advice(tmp_path: Path) -> None:
    (tmp_path / "a.img").touch()
    (said,) = describe_unused(tmp_path, ())
    assert said.startswith("1 .img file (a.img): ")
