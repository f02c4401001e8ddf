"""Images that 3D Slicer can't open, in a made-up format; their copies are read by ITK, as in Slicer."""

import os
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from lib.commands.project import check_text, export, unpack
from lib.core.files import WRITING
from lib.core.volumes.nrrd import NrrdSource
from lib.core.volumes.volume import LPS_TO_RAS
from made_up_format import AFFINE, npz_format
from serving import write_image, write_label
from stores import SCHEME, open_store

SHAPE = (6, 5, 4)
VOXELS = np.arange(240, dtype=np.uint16).reshape(2, *SHAPE)


@pytest.fixture(autouse=True)
def npz() -> Iterator[None]:
    with npz_format():
        yield


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A folder with a NIfTI file, a file of two images, and one of two channels."""
    folder = tmp_path / "studies"
    folder.mkdir()
    write_image(folder / "n.nii.gz")
    np.savez(folder / "m.npz", t0=VOXELS[:1], t1=VOXELS[1:])
    np.savez(folder / "c.npz", c=VOXELS)
    return folder


def read_as_slicer(path: Path) -> tuple[NDArray[np.uint16], NDArray[np.float64]]:
    """Return voxels (C, X, Y, Z) and affine to RAS mm."""
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image).T.reshape(-1, *image.GetSize())
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    return array, LPS_TO_RAS @ lps


def test_copies_have_the_voxels_and_the_place_of_the_images(studies: Path) -> None:
    store = open_store(studies)
    assert sorted(store.list_images()) == ["c", "m_t0", "m_t1", "n"]
    assert store.path_for_slicer("n") == (studies / "n.nii.gz").resolve()
    for image, voxels in {"m_t0": VOXELS[:1], "m_t1": VOXELS[1:], "c": VOXELS}.items():
        path = store.path_for_slicer(image)
        assert path == studies / f".slicer/{image}.nrrd"
        array, affine = read_as_slicer(path)
        np.testing.assert_array_equal(array, voxels)
        np.testing.assert_allclose(affine, AFFINE)
        geometry = NrrdSource(path).geometry
        assert geometry.slicer_affine is None
        assert not geometry.slicer_reverses


def test_a_copy_is_made_once_and_again_when_the_image_changes(studies: Path) -> None:
    path = open_store(studies).path_for_slicer("m_t0")
    made = path.stat().st_mtime_ns
    store = open_store(studies)
    assert store.path_for_slicer("m_t0").stat().st_mtime_ns == made
    np.savez(studies / "m.npz", t0=VOXELS[:1] + 1, t1=VOXELS[1:])
    os.utime(studies / "m.npz", (1, 1))
    np.testing.assert_array_equal(read_as_slicer(store.path_for_slicer("m_t0"))[0], VOXELS[:1] + 1)
    path.write_bytes(b"damaged")
    np.testing.assert_array_equal(read_as_slicer(store.path_for_slicer("m_t0"))[0], VOXELS[:1] + 1)


def test_a_copy_that_many_want_is_made_once(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, made, write = open_store(studies), list[Path](), NrrdSource.write_image

    def counted(path: Path, *arguments: object) -> None:
        made.append(path)
        write(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(NrrdSource, "write_image", counted)
    threads = [threading.Thread(target=store.path_for_slicer, args=("c",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_copies_of_images_that_are_gone_and_incomplete_ones_are_removed(studies: Path) -> None:
    store = open_store(studies)
    for image in ("m_t0", "c"):
        store.path_for_slicer(image)
    (studies / "c.npz").unlink()
    (studies / f".slicer/{WRITING}x.nrrd").touch()
    os.utime(studies / f".slicer/{WRITING}x.nrrd", (1, 1))
    open_store(studies)
    assert [path.name for path in (studies / ".slicer").iterdir()] == ["m_t0.nrrd"]


def test_annotations_of_such_images_are_stored_checked_and_moved(studies: Path, tmp_path: Path) -> None:
    annotation = np.zeros(SHAPE, np.uint8)
    annotation[:, :, 1] = np.arange(30).reshape(6, 5) % 3 + 1
    (studies / "labels/final").mkdir(parents=True)
    write_label(studies / "labels/final/m_t1.nii.gz", annotation, AFFINE)
    store = open_store(studies)
    assert list(store.versions("m_t1")) == [1]
    store.check_image("m_t1")
    assert store.notes("m_t1") == [f"{(studies / 'm.npz').resolve()}/t1: made up"]
    assert len(store.header_notes()) == 3
    with zipfile.ZipFile(store.get_dataset_archive(None)) as archive:
        assert sorted(archive.namelist()) == ["image/m.npz", "label/m_t1.nii.gz", "metadata.json"]

    assert check_text(studies)[1]
    export(studies, studies / "models", tmp_path / "project.zip")
    unpack(tmp_path / "project.zip", tmp_path / "moved")
    moved = open_store(tmp_path / "moved")
    assert sorted(moved.list_images()) == ["c", "m_t0", "m_t1", "n"]
    np.testing.assert_array_equal(moved.annotated_volume("m_t1", SCHEME)[1], annotation)
