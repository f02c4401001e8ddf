"""The datastore on real files; what it stored is read with nibabel and json, not with its own code."""

import json
import os
import shutil
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
from fastapi import HTTPException
from numpy.typing import NDArray

from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.volumes.reading import read_volume
from lib.server.store.datastore import AnnotationStore, SubmittedLabel
from lib.server.store.submission import SchemeError
from lib.server.tasks.strategies import Sparse
from lib.server.tasks.trainer import read_cases
from serving import (
    SEGMENTS,
    SHAPE,
    SPACING,
    as_slicer_sends,
    paint,
    scaled,
    snapshot,
    stored,
    wait_until,
    write_image,
    write_label,
)

SCHEME = LabelScheme(("inside", "tubule"), "outside")


def open_store(studies: Path, scheme: LabelScheme = SCHEME, watch: bool = False) -> AnnotationStore:
    """Open the datastore as the server does."""
    store = AnnotationStore(str(studies), scheme)
    store.serve(watch=watch)
    return store


def submit(
    store: AnnotationStore,
    folder: Path,
    annotation: NDArray[np.uint8],
    image: str = "a",
    affine: NDArray[np.float64] | None = None,
) -> SubmittedLabel:
    """Submit as 3D Slicer does."""
    label, params = as_slicer_sends(annotation)
    file = write_label(folder / f"upload-{threading.get_ident()}.nii.gz", label, affine)
    return store.save_label(image, str(file), "final", params)


def label_info(studies: Path, tag: str, image: str = "a") -> dict[str, Any]:
    """What the index says of a label."""
    index = json.loads((studies / "datastore_v2.json").read_text())
    return index["objects"][image]["labels"][tag]["info"]


def refusal(status: int, *words: str) -> Any:
    return pytest.raises(HTTPException, match="(?s)" + ".*".join([str(status), *words]))


def test_a_submission_is_stored_as_version_final_and_original(studies: Path, tmp_path: Path) -> None:
    submit(open_store(studies), tmp_path, paint())
    assert (stored(studies, "final") == paint()).all()
    assert (stored(studies, "version_1") == paint()).all()
    shown, names = stored(studies, "original"), label_info(studies, "original")["params"]["label_names"]
    assert list(names) == SEGMENTS
    assert list(names.values()) == [1, 2, 3, 4, 5, 6]
    by_value = {value: name for name, value in names.items()}
    for voxel, value in np.ndenumerate(paint()):
        assert (by_value[shown[voxel]] if shown[voxel] else "") == ["", "inside", "tubule", "outside"][value]
    info = label_info(studies, "final")
    assert info["version"] == 1
    assert info["label_names"] == {"inside": 1, "tubule": 2, "outside": 3}
    assert info["statistics"]["annotated_slices"] == [[6, 10], [5, 9], [4, 6]]
    assert info["statistics"]["labelled_voxels"] == np.count_nonzero(paint())


def test_values_are_mapped_by_name(studies: Path, tmp_path: Path) -> None:
    names = ["outside", "tubule", "tubule (predicted)", "inside"]
    label = np.zeros(SHAPE, np.int16)
    label[6], label[10], label[:, 5], label[:, 9] = 1, 2, 3, 4
    file = write_label(tmp_path / "label.nii.gz", label)
    # idx counts segments that weren't exported, as the plugin's does.
    params = {"label_info": [{"name": name, "idx": 7 + i} for i, name in enumerate(names)]}
    open_store(studies).save_label("a", str(file), "final", params)
    expected = np.zeros(SHAPE, np.uint8)
    for voxel, value in np.ndenumerate(label):
        expected[voxel] = {0: 0, 1: 3, 2: 2, 3: 0, 4: 1}[int(value)]
    assert (stored(studies, "final") == expected).all()


def test_a_label_map_without_names_is_refused(studies: Path, tmp_path: Path) -> None:
    with refusal(400, "label_info", '{"name": "inside"}'):
        open_store(studies).save_label("a", str(write_label(tmp_path / "label.nii", paint())), "final", {})
    assert not list(studies.glob("labels/*/a*"))


OBLIQUE = np.array([[0.48, -0.12, 0.1, 4], [0.13, 0.47, -0.2, -3], [-0.02, 0.11, 1.2, 8], [0, 0, 0, 1]])
OBLIQUE[:3, :3] = np.linalg.qr(OBLIQUE[:3, :3])[0] * [0.5, 0.5, 1.25]
LEFT_HANDED = scaled(-0.5, 0.5, 1.25)


@pytest.mark.parametrize("affine", [scaled(0.5, 0.5, 1.25), LEFT_HANDED, OBLIQUE], ids=["plain", "left", "oblique"])
@pytest.mark.parametrize("flip", [False, True], ids=["as is", "flipped"])
def test_a_label_in_another_voxel_order_is_brought_onto_the_grid(
    studies: Path, tmp_path: Path, affine: NDArray[np.float64], flip: bool
) -> None:
    write_image(studies / "a.nii.gz", affine=affine)
    label, params = as_slicer_sends(paint())
    its_affine = affine.copy()
    if flip:  # along k, what Slicer does to left-handed images
        label = label[:, :, ::-1]
        its_affine[:3, 3] += affine[:3, 2] * (SHAPE[2] - 1)
        its_affine[:3, 2] *= -1
    file = write_label(tmp_path / "label.nii.gz", label, its_affine)
    open_store(studies).save_label("a", str(file), "final", params)
    for tag in ("final", "version_1", "original"):
        assert np.allclose(nibabel.load(studies / "labels" / tag / "a.nii.gz").affine, affine, atol=1e-5)
    assert (stored(studies, "final") == paint()).all()


def test_a_label_over_an_image_that_slicer_misreads(studies: Path, tmp_path: Path) -> None:
    affine = scaled(0.5, 0.5, 1.25)  # RAS; Slicer takes channels-last images for LPS
    write_image(studies / "a.nii.gz", (*SHAPE, 3), affine)
    misread = np.diag([-0.5, -0.5, 1.25, 1.0])
    misread[:3, 3] = affine[:3, 3]
    submit(open_store(studies), tmp_path, paint(), affine=misread)
    assert (stored(studies, "final") == paint()).all()
    assert np.allclose(nibabel.load(studies / "labels/final/a.nii.gz").affine, affine)
    assert np.allclose(nibabel.load(studies / "labels/original/a.nii.gz").affine, misread)


def test_every_submission_is_kept(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    submit(store, tmp_path, paint())
    first = (studies / "labels/version_1/a.nii.gz").read_bytes()
    fewer = paint()
    fewer[10] = 0
    submit(store, tmp_path, fewer)
    assert (studies / "labels/version_1/a.nii.gz").read_bytes() == first
    assert (stored(studies, "version_2") == fewer).all()
    assert (stored(studies, "final") == fewer).all()
    info = label_info(studies, "final")
    assert info["version"] == 2
    assert info["earlier"]["version"] == 1
    assert info["earlier"]["gone_slices"] == [[10], [], []]


@pytest.mark.parametrize(
    "removed",
    [
        ["labels/version_2/a.nii.gz", "labels/version_2/a.json"],
        ["labels/version_2/a.nii.gz", "labels/version_2/a.json", "datastore_v2.json"],
        ["labels/version_2/a.nii.gz", "labels/version_2/a.json", "labels/final/a.nii.gz", "labels/final/a.json"],
        ["labels/version_2/a.nii.gz", "labels/final/a.nii.gz", "labels/final/a.json", "datastore_v2.json"],
    ],
)
def test_a_version_number_is_never_given_twice(studies: Path, tmp_path: Path, removed: list[str]) -> None:
    store = open_store(studies)
    submit(store, tmp_path, paint())
    submit(store, tmp_path, paint())
    for name in removed:
        (studies / name).unlink()
    store = open_store(studies)
    submit(store, tmp_path, paint())
    assert label_info(studies, "final")["version"] == 3
    assert not (studies / "labels/version_2/a.nii.gz").exists()


def test_predicted_segments_are_never_stored(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    label, params = as_slicer_sends(paint())
    label[label == 0] = 2
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", label)), "final", params)
    assert (stored(studies, "final") == paint()).all()
    with refusal(400, "no paint"):
        store.save_label("a", str(write_label(tmp_path / "label.nii.gz", label % 3)), "final", params)


def test_paint_that_the_models_segments_may_have_overwritten_is_warned_of(studies: Path, tmp_path: Path) -> None:
    label = np.zeros(SHAPE, np.int16)
    label[6], label[10] = 1, 2
    params = {"label_info": [{"name": "tubule"}, {"name": "inside (predicted)"}]}
    open_store(studies).save_label("a", str(write_label(tmp_path / "label.nii.gz", label)), "final", params)
    (warning,) = label_info(studies, "final")["warnings"]
    assert "'inside (predicted)' stands after 'tubule'" in warning


def test_unknown_segments_are_refused_by_name_or_ignored_if_empty(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    label, params = as_slicer_sends(paint())
    params["label_info"].append({"name": "nucleus", "idx": 7})
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", label)), "final", params)
    (warning,) = label_info(studies, "final")["warnings"]
    assert "'nucleus' was ignored" in warning
    before = snapshot(studies)
    label[0, 0, 0] = 7
    with refusal(400, "'nucleus'", "inside, tubule, outside"):
        store.save_label("a", str(write_label(tmp_path / "label.nii.gz", label)), "final", params)
    assert snapshot(studies) == before


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("empty", ["no paint"]),
        ("another shape", ["the submitted .nii.gz label", "20, 18, 11"]),
        ("another place", ["the submitted .nii.gz label", "grid"]),
        ("not whole", ["the submitted .nii.gz label", "0.5", "whole number"]),
        ("not named", ["value 7", "6 segments"]),
        ("damaged", ["the submitted .nii.gz label", "damaged"]),
        ("another ending", ["the submitted .tif label"]),
        ("segmentation", ["the submitted .nrrd label", "does not lie on the voxels"]),
        ("no list", ["label_info", "expected a list"]),
        ("no name", ["label_info", "no name"]),
        ("no object", ["params", "expected an object"]),
    ],
)
def test_what_cannot_be_used_is_refused_and_changes_nothing(
    studies: Path, tmp_path: Path, case: str, words: list[str]
) -> None:
    store = open_store(studies)
    submit(store, tmp_path, paint())
    before = snapshot(studies)
    label: NDArray[Any]
    params: Any
    label, params = as_slicer_sends(paint())
    affine, file = scaled(*SPACING), tmp_path / "label.nii.gz"
    if case == "empty":
        label[:] = 0
    elif case == "another shape":
        label = label[:, :, :-1]
    elif case == "another place":
        affine[0, 3] += 0.25
    elif case == "not whole":
        label = label.astype(np.float32)
        label[3, 3, 3] = 0.5
    elif case == "not named":
        label[3, 3, 3] = 7
    elif case == "no list":
        params = {"label_info": {"inside": 1}}
    elif case == "no name":
        params = {"label_info": [{"idx": 1}]}
    elif case == "no object":
        params = ["inside"]
    write_label(file, label, affine)
    if case == "damaged":
        file.write_bytes(file.read_bytes()[:200])
    elif case == "another ending":
        file = file.rename(tmp_path / "label.tif")
    elif case == "segmentation":
        file = tmp_path / "label.seg.nrrd"
        header = {"space": "RAS", "space directions": 0.3 * np.eye(3), "Segment0_Name": "inside"}
        nrrd.write(str(file), np.ones_like(label), header)
    with refusal(400, *words):
        store.save_label("a", str(file), "final", params)
    assert snapshot(studies) == before


def test_an_unknown_image_is_not_found(studies: Path, tmp_path: Path) -> None:
    with refusal(404, "'nobody'", "a, b"):
        submit(open_store(studies), tmp_path, paint(), image="nobody")


@pytest.mark.parametrize("tag", ["original", "version_1", "version_9", "prediction", "mine"])
def test_clients_write_no_other_tag(studies: Path, tmp_path: Path, tag: str) -> None:
    store = open_store(studies)
    submit(store, tmp_path, paint())
    before = snapshot(studies)
    with refusal(400, tag):
        store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), tag, {})
    assert snapshot(studies) == before


def test_a_prediction_stands_apart(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    submit(store, tmp_path, paint())
    prediction = np.ones(SHAPE, np.uint8)
    store.save_prediction("a", prediction, prediction, scaled(*SPACING), {"seconds": 3.0})
    assert (stored(studies, "prediction") == 1).all()
    assert label_info(studies, "prediction")["label_names"] == {"inside (predicted)": 1, "tubule (predicted)": 2}
    assert (stored(studies, "final") == paint()).all()
    assert store.datalist() == [{"image": str(studies / "a.nii.gz"), "label": str(studies / "labels/final/a.nii.gz")}]


def test_annotations_are_never_deleted(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    submit(store, tmp_path, paint())
    before = snapshot(studies)
    for tag in ("final", "original", "version_1"):
        with refusal(400, "never deleted"):
            store.remove_label("a", tag)
    with refusal(400, "annotated"):
        store.remove_image("a")
    assert snapshot(studies) == before
    with refusal(404, "nobody"):
        store.remove_image("nobody")
    with refusal(404, "prediction"):
        store.remove_label("a", "prediction")


def test_predictions_and_images_without_annotation_can_be_removed(studies: Path) -> None:
    store = open_store(studies)
    store.save_prediction("a", np.ones(SHAPE, np.uint8), np.ones(SHAPE, np.uint8), scaled(*SPACING), {})
    store.save_prediction("b", np.ones(SHAPE, np.uint8), np.ones(SHAPE, np.uint8), scaled(*SPACING), {})
    store.remove_label("a", "prediction")
    store.remove_label("a", "uncertainty")
    assert store.get_labels_by_image_id("a") == {}
    store.remove_image("b")
    assert open_store(studies).list_images() == ["a"]
    for tag in ("prediction", "uncertainty"):
        assert not list((studies / "labels" / tag).iterdir())


def test_only_the_servers_own_image_info_is_protected(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    submit(store, tmp_path, paint())
    for key in ("versions", "name", "ts"):
        with refusal(400, "image info", key, "kept by the server"):
            store.update_image_info("a", {key: "other"})
    # Next Sample goes on whatever a client writes where it keeps what was offered.
    for noted in ("other", {"sparse": "other"}, {"sparse": {"client_id": "me", "ts": "other"}}):
        store.update_image_info("a", {"strategy": noted})
        assert Sparse()({"strategy": "sparse", "client_id": "me"}, store) is not None
    submit(store, tmp_path, paint())
    assert label_info(studies, "final")["version"] == 2


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
    with refusal(400, "mouse_0003.nii.gz was annotated as an image of its own"):
        store.remove_image("mouse")
    for number in (0, 1, 2):
        (studies / f"mouse_{number:04d}.nii.gz").unlink()
    store.refresh()
    assert store.labels_without_image() == {}
    assert store.versions("mouse_0003").keys() == {1}


def test_an_image_removed_while_the_model_was_at_work(studies: Path) -> None:
    store = open_store(studies)
    store.remove_image("a")
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


def test_only_the_servers_own_label_info_is_protected(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    submit(store, tmp_path, paint())
    with refusal(400, "version"):
        store.update_label_info("a", "final", {"version": 7})
    store.update_label_info("a", "final", {"remark": "good"})
    (studies / "datastore_v2.json").unlink()
    assert open_store(studies).get_label_info("a", "final")["remark"] == "good"


# The index


def test_nothing_is_lost_with_the_index(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    submit(store, tmp_path, paint())
    submit(store, tmp_path, paint()[::-1])
    store.save_prediction("a", np.ones(SHAPE, np.uint8), np.ones(SHAPE, np.uint8), scaled(*SPACING), {"seconds": 3.0})
    labels = store.json()["objects"]["a"]["labels"]
    index = studies / "datastore_v2.json"
    index.unlink()
    assert open_store(studies).json()["objects"]["a"]["labels"] == labels
    index.write_text(index.read_text()[:300])
    damaged = index.read_bytes()
    assert open_store(studies).json()["objects"]["a"]["labels"] == labels
    (aside,) = studies.glob("datastore_v2.damaged-*.json")
    assert aside.read_bytes() == damaged


def test_opening_writes_nothing(studies: Path, tmp_path: Path) -> None:
    submit(open_store(studies), tmp_path, paint())
    write_image(studies / "c.nii.gz")
    for index in ("as it was", "damaged"):
        if index == "damaged":
            (studies / "datastore_v2.json").write_text("{")
        before = {path: path.stat().st_mtime_ns for path in studies.rglob("*")}
        reader = AnnotationStore(str(studies), SCHEME)
        assert len(reader.datalist()) == 1
        assert sorted(reader.list_images()) == ["a", "b", "c"]
        assert {path: path.stat().st_mtime_ns for path in studies.rglob("*")} == before


def test_the_index_is_whole_at_every_moment(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    done = threading.Event()
    failures = []

    def read() -> None:
        while not done.is_set():
            try:
                json.loads((studies / "datastore_v2.json").read_text())
            except (ValueError, OSError) as error:
                failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(100):
        store.update_image_info("a", {"number": number, "padding": "x" * 20000})
    done.set()
    reader.join()
    assert not failures


def test_files_being_written_and_files_of_macos_are_no_images(studies: Path) -> None:
    for name in (".writing-x.nii.gz", "._a.nii.gz", "models/m.nii.gz", "labels/final/.writing-a.nii.gz", "notes.png"):
        (studies / name).parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(studies / "a.nii.gz", studies / name)
    store = open_store(studies)
    assert sorted(store.list_images()) == ["a", "b"]
    assert store.get_labeled_images() == []


# Several at once


def test_simultaneous_submissions_are_all_kept(studies: Path, tmp_path: Path) -> None:
    # Two stores, as in two processes; two threads in each.
    stores = [open_store(studies), open_store(studies)]
    errors = []

    def work(store: AnnotationStore, worker: int) -> None:
        try:
            for number in range(4):
                annotation = paint()
                annotation[0, 0, worker], annotation[0, 1, number] = 1, 2
                submit(store, tmp_path, annotation)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(stores[worker % 2], worker)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    contents = {stored(studies, f"version_{number}").tobytes() for number in range(1, 17)}
    assert len(contents) == 16
    assert label_info(studies, "final")["version"] == 16
    assert (stored(studies, "final") == stored(studies, "version_16")).all()
    index = json.loads((studies / "datastore_v2.json").read_text())["objects"]["a"]["labels"]
    assert len(index) == 16 + 2
    assert all(index[f"version_{number}"]["info"]["version"] == number for number in range(1, 17))


def test_a_submission_is_answered_by_what_was_submitted(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    submit(store, tmp_path, paint())
    submitted = submit(store, tmp_path, paint()[::-1])
    # Another process is quicker than the reply.
    AnnotationStore(str(studies), SCHEME).restore("a", 1)
    store.reload()
    assert store.get_label_info("a", "final")["version"] == 3
    assert submitted.info["version"] == 2
    assert submitted == "a"


def test_changed_files_are_noticed_and_disturb_no_submission(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies, watch=True)
    for number in range(6):
        write_image(studies / f"new{number}.nii.gz")
        submit(store, tmp_path, paint())
        assert "a" in store.list_images()
        assert store.get_label_info("a", "final")["version"] == number + 1
    wait_until(lambda: len(store.list_images()) == 8)
    time.sleep(0.5)  # lets earlier events pass, which would bring the new name along
    os.rename(studies / "new5.nii.gz", studies / "renamed.nii.gz")
    wait_until(lambda: "renamed" in store.list_images())
    (studies / "new4.nii.gz").unlink()
    expected = ["a", "b", "new0", "new1", "new2", "new3", "renamed"]
    wait_until(lambda: sorted(store.list_images()) == expected)
    assert {f"version_{number}" for number in range(1, 7)} < set(store.get_labels_by_image_id("a"))
    # What another process stores is seen, too.
    submit(AnnotationStore(str(studies), SCHEME), tmp_path, paint())
    wait_until(lambda: store.get_label_info("a", "final")["version"] == 7)


# What a killed server or a person left


@pytest.mark.parametrize("killed", ["before final", "before the info of final", "before original"])
def test_a_submission_that_was_cut_short_is_completed(studies: Path, tmp_path: Path, killed: str) -> None:
    store = open_store(studies)
    submit(store, tmp_path, paint())
    before = snapshot(studies)
    second = paint()
    second[0] = 3
    submit(store, tmp_path, second)
    undone = ["datastore_v2.json", "labels/original/a.nii.gz", "labels/original/a.json"]
    if killed != "before original":
        undone.append("labels/final/a.json")
    if killed == "before final":
        undone.append("labels/final/a.nii.gz")
    for name in undone:
        (studies / name).write_bytes(before[name])
    store = open_store(studies)
    assert (stored(studies, "final") == second).all()
    assert (stored(studies, "original") == np.where(second > 0, second + 3, 0)).all()
    assert store.get_label_info("a", "final")["version"] == 2
    assert store.get_label_info("a", "original")["version"] == 2


def test_a_first_submission_that_was_cut_short_is_completed(studies: Path, tmp_path: Path) -> None:
    submit(open_store(studies), tmp_path, paint())
    shutil.rmtree(studies / "labels/original")
    for name in ("datastore_v2.json", "labels/final/a.json"):
        (studies / name).unlink()
    store = open_store(studies)
    assert set(store.get_labels_by_image_id("a")) == {"version_1", "final", "original"}
    assert store.get_label_info("a", "original")["version"] == 1


def test_final_is_made_again_from_the_newest_version(studies: Path, tmp_path: Path) -> None:
    submit(open_store(studies), tmp_path, paint())
    (studies / "labels/final/a.nii.gz").unlink()
    assert len(open_store(studies).datalist()) == 1
    assert (stored(studies, "final") == paint()).all()


def test_a_label_put_there_by_hand_becomes_a_version(studies: Path) -> None:
    (studies / "labels/final").mkdir(parents=True)
    write_label(studies / "labels/final/a.nii", paint())
    write_label(studies / "labels/final/b.nii.gz", paint()[:-1])
    store = open_store(studies)
    assert (stored(studies, "version_1") == paint()).all()
    assert (stored(studies, "final") == paint()).all()
    assert not (studies / "labels/final/a.nii").exists()
    # One that can't be used is left alone and left out.
    assert store.get_labeled_images() == ["a"]
    assert (studies / "labels/final/b.nii.gz").exists()


def test_another_scheme_goes_by_names(studies: Path, tmp_path: Path) -> None:
    submit(open_store(studies), tmp_path, paint())
    version = (studies / "labels/version_1/a.nii.gz").read_bytes()
    wider = LabelScheme(("vessel", "tubule", "inside"), "outside")
    open_store(studies, wider)
    final = stored(studies, "final")
    for voxel, value in np.ndenumerate(paint()):
        assert final[voxel] == {0: 0, 1: 3, 2: 2, 3: 4}[int(value)]
    assert list(label_info(studies, "original")["params"]["label_names"]) == list(wider.segments)
    assert (studies / "labels/version_1/a.nii.gz").read_bytes() == version
    open_store(studies)
    assert (stored(studies, "final") == paint()).all()
    with pytest.raises(SchemeError, match=r"a\.nii\.gz: has voxels of the class 'tubule'.*inside, vessel"):
        open_store(studies, LabelScheme(("inside", "vessel"), "outside"))


# Images


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


def test_the_archive_holds_as_many_images_as_asked_for(studies: Path, tmp_path: Path) -> None:
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
        ("segmentation", ["'new'", "segmentations"]),
        ("ending", ["'new'", ".png"]),
        ("folder", ["'../new'", "plain file name"]),
        ("taken", ["'a'", "another image"]),
    ],
)
def test_images_that_cannot_be_used_are_not_taken(studies: Path, tmp_path: Path, case: str, words: list[str]) -> None:
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
