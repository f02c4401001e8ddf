"""Requests to a real server, as 3D Slicer and other clients send them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
import requests

from lib.core.labels import LabelScheme
from segmentations import SlicerScene
from serving import (
    NAMED,
    PATIENCE,
    SEGMENTS,
    SHAPE,
    SPACING,
    Server,
    as_slicer_sends,
    paint,
    parts,
    publish,
    scaled,
    snapshot,
    stored,
    write_image,
    write_label,
)

pytestmark = pytest.mark.slow

PREDICTED = {"inside (predicted)": 1, "tubule (predicted)": 2}


@pytest.fixture(scope="module")
def with_model(server: Server, served: Path) -> Server:
    publish(served / "models", LabelScheme(("inside", "tubule"), "outside"))
    return server


# These tests come first, before anything is annotated or trained.


def test_info_before_training(server: Server) -> None:
    info = server.client.info()
    assert info["labels"] == SEGMENTS
    assert info["models"] == {}
    assert list(info["trainers"]) == ["sparse_unet3d"]
    assert list(info["strategies"]) == ["random", "first", "sparse", "next_slice"]
    assert list(info["scoring"]) == ["iou"]
    assert "width 8" in info["description"] or "GPU" in info["description"]
    assert info["datastore"]["completed"] == 0


def test_requests_that_come_too_early_are_refused(server: Server) -> None:
    reply = server.infer("a")
    assert (reply.status_code, "no model yet" in reply.text) == (400, True)
    for path in ("/train/sparse_unet3d", "/train/"):
        reply = requests.post(server.url + path, json={}, timeout=PATIENCE)
        assert (reply.status_code, "nothing is annotated" in reply.text) == (400, True)
    reply = requests.post(server.url + "/batch/infer/sparse_unet3d", json={}, timeout=PATIENCE)
    assert (reply.status_code, "no model yet" in reply.text) == (400, True)
    assert server.get("/datastore/dataset").status_code == 404


def test_only_one_class_annotated(server: Server, tmp_path: Path) -> None:
    label = np.where(paint() > 0, 1, 0).astype(np.uint8)
    reply = server.put_label("b", write_label(tmp_path / "label.nii.gz", label), NAMED)
    assert "training needs at least two classes" in reply.json()["next"]
    reply = requests.post(server.url + "/train/sparse_unet3d", json={"max_epochs": 1}, timeout=PATIENCE)
    assert reply.status_code == 400
    assert "only the class 'inside' is annotated" in reply.json()["detail"]


def test_a_submission_is_answered_in_words(server: Server, tmp_path: Path) -> None:
    label, params = as_slicer_sends(paint())
    reply = server.client.save_label("a", str(write_label(tmp_path / "label.nii.gz", label)), params=params)
    assert reply["version"] == 1
    assert reply["annotated_slices"] == {
        "axis 0 (L-R, sagittal)": "6, 10",
        "axis 1 (P-A, coronal)": "5, 9",
        "axis 2 (I-S, axial)": "4, 6",
    }
    counts = {
        name: np.count_nonzero(paint() == value) for value, name in enumerate(("inside", "tubule", "outside"), start=1)
    }
    assert reply["labelled_voxels"] == counts
    for name, count in counts.items():
        assert reply["labelled_percent"][name] == pytest.approx(100 * count / np.prod(SHAPE), abs=0.001)
    assert reply["warnings"] == []
    assert reply["message"] == (
        f"Version 1 of 'a' is stored: {np.count_nonzero(paint())} labelled voxels "
        f"({100 * np.count_nonzero(paint()) / np.prod(SHAPE):.2f} % of all), 6 annotated slices."
    )
    assert "Train" in reply["next"]
    # Slicer shows the JSON as it is: the first lines without scrolling, and non-ASCII characters as codes.
    assert next(iter(reply)) == "message"
    assert "\\u" not in json.dumps(reply)
    label[paint() == 2] = 0
    label[:, :, 6] = 0
    reply = server.client.save_label("a", str(write_label(tmp_path / "label.nii.gz", label)), params=params)
    assert reply["version"] == 2
    gone = [warning for warning in reply["warnings"] if "axis 2 (I-S, axial): 6; version 1 still has them" in warning]
    assert len(gone) == 1
    assert "tubule: not painted in this image" in reply["warnings"]


def test_overlapping_segments_of_an_image_that_slicer_misreads(server: Server, served: Path, tmp_path: Path) -> None:
    scene = SlicerScene(served / "numbered.nii.gz")
    dense = {name: paint() == value for value, name in enumerate(("inside", "tubule", "outside"), start=1)}
    over = {**dense, "tubule": dense["tubule"] | dense["inside"], "tubule (predicted)": dense["outside"]}
    file = scene.save(scene.paint(over), tmp_path / "label.seg.nrrd", crop=True)
    # The plugin sends numbers that don't apply to this file.
    params = {"label_info": [{"name": name, "idx": 7} for name in over]}
    reply = server.client.save_label("numbered", str(file), params=params)
    assert (reply["version"], reply["labelled_voxels"]["inside"]) == (1, 0)
    assert reply["warnings"] == [
        f"{np.count_nonzero(dense['inside'])} voxels are painted as more than one class; each counts as the one that "
        "stands last in the list of segments",
        "inside: not painted in this image",
    ]
    annotation = np.where(paint() == 1, 2, paint())
    assert (stored(served, "final", "numbered") == annotation).all()

    scene.save(scene.paint({"inside": dense["inside"], "nucleus": dense["outside"]}), file)
    before = snapshot(served)
    refused = server.put_label("numbered", file, params)
    assert (refused.status_code, "'nucleus'" in refused.json()["detail"]) == (400, True)
    assert snapshot(served) == before


# With a model


def test_a_model_is_offered_once_it_is_published(with_model: Server) -> None:
    models = with_model.client.info()["models"]
    # If no model is chosen, the plugin takes the first one of a type.
    assert list(models) == ["sparse_unet3d", "accept_slice", "next_slices"]
    model = models["sparse_unet3d"]
    assert model["type"] == "segmentation"
    assert model["labels"] == PREDICTED
    assert model["dimension"] == 3
    assert "width 2" in model["description"]
    assert "validation IoU 0.500" in model["description"]


def test_the_result_lies_on_the_image(with_model: Server, served: Path, tmp_path: Path) -> None:
    final = (served / "labels/final/a.nii.gz").read_bytes()
    for ending in (".nrrd", ".nii.gz"):
        # Whatever a client asks for, a prediction is stored under its own tag only.
        reply = with_model.infer("a", result_extension=ending, save_label=True, label_tag="final")
        params, file = parts(reply, tmp_path)
        assert params["label_names"] == PREDICTED
        assert params["model"]["score"] == 0.5
        assert file.name.endswith(ending)
    # Results are deleted right after they are sent.
    with_model.wait_until(lambda: not list(with_model.tmp.glob("prediction-*")))
    result = nibabel.load(file)
    array = np.asarray(result.dataobj)
    assert np.allclose(result.affine, scaled(*SPACING))
    assert (array.dtype, array.shape) == (np.uint8, SHAPE)
    assert set(np.unique(array)) <= {0, 1, 2}
    assert (stored(served, "prediction") == array).all()
    assert (served / "labels/final/a.nii.gz").read_bytes() == final
    info = with_model.get("/datastore/label/info", params={"label": "a", "tag": "prediction"}).json()
    assert info["model"]["score"] == 0.5


def test_the_result_lies_on_what_slicer_shows_of_a_misread_image(
    with_model: Server, served: Path, tmp_path: Path
) -> None:
    scheme = LabelScheme(("inside", "tubule"), "outside")
    publish(served / "models", scheme, channels=2)
    _, file = parts(with_model.infer("misread", result_extension=".nrrd"), tmp_path)
    publish(served / "models", scheme)
    array, header = nrrd.read(str(file))
    # NRRD uses LPS. Slicer takes the axes of the file for those of LPS.
    assert header["space"] == "left-posterior-superior"
    assert np.allclose(header["space directions"], np.diag([0.5, 0.5, 1.25]))
    kept = nibabel.load(served / "labels/prediction/misread.nii.gz")
    assert np.allclose(kept.affine, np.diag([0.5, 0.5, 1.25, 1]))
    assert (np.asarray(kept.dataobj) == array).all()


def test_an_uploaded_image_is_segmented_and_not_kept(with_model: Server, served: Path, tmp_path: Path) -> None:
    before = snapshot(served)
    file = write_image(tmp_path / "mine.nii.gz", seed=8)
    _, params = with_model.client.infer("sparse_unet3d", "", {}, file=str(file))
    assert params["label_names"] == PREDICTED
    assert snapshot(served) == before


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("infinite", ["infinite.nii.gz", "is infinite"]),
        ("flat", ["flat.nii.gz", "2-D"]),
        ("truncated", ["truncated.nii.gz", "damaged"]),
        ("two channels", ["two channels.nii.gz", "1 channel", "has 2"]),
    ],
)
def test_images_that_cannot_be_segmented(with_model: Server, image: str, words: list[str]) -> None:
    reply = with_model.infer(image)
    assert reply.status_code == 400
    assert all(word in reply.json()["detail"] for word in words), reply.text


def test_an_unknown_result_ending(with_model: Server) -> None:
    reply = with_model.infer("a", result_extension=".tif")
    assert (reply.status_code, ".nrrd" in reply.json()["detail"]) == (400, True)


def test_scoring(with_model: Server) -> None:
    with_model.run_job("/scoring/iou", "/scoring/")
    info = with_model.get("/datastore/label/info", params={"label": "a", "tag": "prediction"}).json()
    assert set(info["iou"]) == {"inside", "tubule"}


def test_the_published_model_is_downloaded(with_model: Server, served: Path) -> None:
    assert with_model.get("/model/sparse_unet3d").content == (served / "models/model.pt").read_bytes()


def test_a_model_for_other_classes_is_refused_by_name(with_model: Server, served: Path) -> None:
    publish(served / "models", LabelScheme(("vessel",), "rest"))
    assert with_model.client.info()["models"] == {}
    reply = with_model.infer("a")
    assert reply.status_code == 400
    for word in ("model.pt", "vessel", "inside, tubule"):
        assert word in reply.json()["detail"]


def test_a_server_that_cannot_start_says_why(served: Path, tmp_path: Path, start_server: Callable[..., Server]) -> None:
    copy = shutil.copytree(served, tmp_path / "copy")
    reasons = {
        "lables": start_server(copy, lables="inside"),
        "'inside'; the server is configured for foreground vessel": start_server(copy, labels="vessel,tubule"),
    }
    for reason, failing in reasons.items():
        assert failing.process.wait(timeout=PATIENCE) != 0
        log = failing.log.read_text()
        assert "The server cannot start" in log
        assert reason in log
        assert "Traceback" not in log
