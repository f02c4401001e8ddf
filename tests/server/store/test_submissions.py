"""Submissions as the datastore stores them; the files are read with nibabel and json, not with its own code."""

from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
from numpy.typing import NDArray

from serving import SEGMENTS, SHAPE, SPACING, as_slicer_sends, paint, scaled, snapshot, stored, write_image, write_label
from stores import label_info, open_store, refusal, submit


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
        ["labels/version_2/a.nii.gz", "labels/version_2/a.json", "datastore_v2.json", "datastore_v2.journal"],
        ["labels/version_2/a.nii.gz", "labels/version_2/a.json", "labels/final/a.nii.gz", "labels/final/a.json"],
        [
            "labels/version_2/a.nii.gz",
            "labels/final/a.nii.gz",
            "labels/final/a.json",
            "datastore_v2.json",
            "datastore_v2.journal",
        ],
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


def test_a_warning_says_that_the_models_segments_may_have_overwritten_paint(studies: Path, tmp_path: Path) -> None:
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
        ("another ending", ["the submitted .png label"]),
        ("segmentation", ["the submitted .nrrd label", "does not lie on the voxels"]),
        ("no list", ["label_info", "expected a list"]),
        ("no name", ["label_info", "no name"]),
        ("no object", ["params", "expected an object"]),
    ],
)
def test_unusable_labels_are_refused_and_change_nothing(
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
        file = file.rename(tmp_path / "label.png")
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
def test_clients_cannot_write_other_tags(studies: Path, tmp_path: Path, tag: str) -> None:
    store = open_store(studies)
    submit(store, tmp_path, paint())
    before = snapshot(studies)
    with refusal(400, tag):
        store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), tag, {})
    assert snapshot(studies) == before
