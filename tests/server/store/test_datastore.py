"""Predictions, uploaded images and what is known of them; the files are read with nibabel and json."""

import os
import zipfile
from pathlib import Path

import nrrd
import numpy as np
import pytest

from lib.core.errors import InputError
from lib.core.volumes.reading import read_volume
from lib.server.tasks.trainer import read_cases
from serving import SHAPE, SPACING, paint, scaled, snapshot, stored, write_image, write_label
from stores import SCHEME, label_info, lose_index, open_store, refusal, submit


def test_a_prediction_is_stored_apart_from_the_annotation(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    submit(store, tmp_path, paint())
    prediction = np.ones(SHAPE, np.uint8)
    store.save_prediction("a", prediction, prediction, scaled(*SPACING), {"seconds": 3.0})
    assert (stored(studies, "prediction") == 1).all()
    assert label_info(studies, "prediction")["label_names"] == {"inside (predicted)": 1, "tubule (predicted)": 2}
    assert (stored(studies, "final") == paint()).all()
    assert store.datalist() == [{"image": str(studies / "a.nii.gz"), "label": str(studies / "labels/final/a.nii.gz")}]


def test_annotations_of_images_that_turn_into_channels_are_not_lost(
    studies: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody puts a file named ..._0000 beside an annotated image whose name ends in a number."""
    write_image(studies / "mouse_0003.nii.gz")
    submit(open_store(studies), tmp_path, paint(), "mouse_0003")
    for number in (0, 1, 2):
        write_image(studies / f"mouse_{number:04d}.nii.gz")
    store = open_store(studies)
    assert "mouse" in store.list_images()
    (said,) = {
        record.getMessage() for record in caplog.records if "mouse_0003: there are labels" in record.getMessage()
    }
    assert "version_1" in said
    assert store.labels_without_image() == {"mouse_0003": ["final", "original", "version_1"]}
    for number in (0, 1, 2):
        (studies / f"mouse_{number:04d}.nii.gz").unlink()
    store.refresh()
    assert store.labels_without_image() == {}
    assert store.versions("mouse_0003").keys() == {1}


def test_an_image_removed_while_the_model_was_at_work(studies: Path) -> None:
    store = open_store(studies)
    (studies / "a.nii.gz").unlink()
    store.refresh()
    with refusal(404, "no image 'a'"):
        store.save_prediction("a", np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8), np.eye(4), {})


def test_an_image_is_read_once_until_its_file_changes(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, read = open_store(studies), list[str]()
    monkeypatch.setattr("lib.server.store.image_store.read_volume", lambda path: read.append(path) or read_volume(path))
    for _ in range(3):
        store.check_image("a")
    assert len(read) == 1
    (studies / "a.nii.gz").write_bytes(b"damaged")
    for _ in range(2):
        with pytest.raises(InputError, match=r"a\.nii\.gz"):
            store.check_image("a")
    assert store.is_unreadable("a")


def test_label_info_outlives_the_index(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    submit(store, tmp_path, paint())
    store.update_label_info("a", "final", {"remark": "good"})
    lose_index(studies)
    assert open_store(studies).get_label_info("a", "final")["remark"] == "good"


def test_channels_that_are_links_are_found_beside_each_other(tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "scans").mkdir()
    for number, name in enumerate(("t1.nii.gz", "t2.nii.gz")):
        os.symlink(write_image(tmp_path / "scans" / name, seed=number), tmp_path / f"studies/a_000{number}.nii.gz")
    store = open_store(tmp_path / "studies")
    submit(store, tmp_path, paint())
    ((case,), _) = read_cases(store, SCHEME)
    assert (case.id, case.volume.channels) == ("a", 2)
    archive = zipfile.ZipFile(store.get_dataset_archive(None))
    names = {"image/a_0000.nii.gz", "image/a_0001.nii.gz", "label/a.nii.gz", "metadata.json"}
    assert set(archive.namelist()) == names


def test_the_archive_holds_at_most_the_requested_number_of_images(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    for image in ("a", "b"):
        submit(store, tmp_path, paint(), image)
    for limit, images in ((None, "ab"), (0, "ab"), (1, "a"), (2, "ab"), (3, "ab")):
        archive = zipfile.ZipFile(store.get_dataset_archive(limit))
        expected = [f"{kind}/{image}.nii.gz" for kind in ("image", "label") for image in images]
        assert archive.namelist() == [*expected, "metadata.json"]


def test_labels_stay_with_an_image_that_is_stored_by_channel_later(studies: Path, tmp_path: Path) -> None:
    submit(open_store(studies), tmp_path, paint())
    (studies / "a.nii.gz").rename(studies / "a_0000.nii.gz")
    write_image(studies / "a_0001.nii.gz")
    store = open_store(studies)
    assert sorted(store.list_images()) == ["a", "b"]
    submit(store, tmp_path, paint())
    assert store.get_label_info("a", "final")["version"] == 2


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("infinite", ["'new'", "infinite"]),
        ("2-D", ["'new'", "2-D"]),
        ("truncated", ["'new'", "damaged"]),
        ("no image", ["'new'", "damaged"]),
        ("segmentation", ["'new'", "segmentation of 3D Slicer"]),
        ("ending", ["'new'", ".png"]),
        ("folder", ["'../new'", "plain file name"]),
        ("taken", ["'a'", "another image"]),
    ],
)
def test_unusable_images_are_refused(studies: Path, tmp_path: Path, case: str, words: list[str]) -> None:
    store = open_store(studies)
    before = snapshot(studies)
    file = write_image(tmp_path / "upload.nii.gz", seed=9)
    name = {"folder": "../new", "taken": "a"}.get(case, "new")
    if case == "infinite":
        array = np.ones(SHAPE, np.float32)
        array[3, 4, 5] = np.inf
        write_label(file, array)
    elif case == "2-D":
        write_label(file, np.ones((30, 30), np.uint8))
    elif case == "truncated":
        file.write_bytes(file.read_bytes()[:1000])
    elif case == "no image":
        file.write_text("hello")
    elif case == "segmentation":
        file = tmp_path / "new.nrrd"
        nrrd.write(str(file), np.ones(SHAPE, np.uint8), {"Segment0_Name": "inside"})
    elif case == "ending":
        file = file.rename(tmp_path / "upload.png")
    with refusal(400, *words):
        store.add_image(name, str(file), {})
    assert snapshot(studies) == before


def test_an_uploaded_image_is_stored(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    file = write_image(tmp_path / "upload.nii.gz", seed=9)
    assert store.add_image("new", str(file), {"client_id": "me"}) == "new"
    assert (studies / "new.nii.gz").read_bytes() == file.read_bytes()
    assert store.add_image("new", str(file), {}) == "new"
    assert open_store(studies).get_image_info("new")["client_id"] == "me"
