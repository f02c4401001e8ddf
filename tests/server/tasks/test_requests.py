"""Requests to a real server: what 3D Slicer and other clients send, and what they get wrong."""

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
from segmentations import SlicerScene, write_numbered
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
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Studies with images of every kind that can't be segmented, too."""
    folder = tmp_path_factory.mktemp("studies")
    write_image(folder / "a.nii.gz", seed=1)
    write_image(folder / "b.nii.gz", seed=2)
    write_image(folder / "two channels.nii.gz", (*SHAPE, 2))
    write_image(folder / "misread.nii.gz", (*SHAPE, 2), np.diag([0.5, 0.5, 1.25, 1.0]))
    write_numbered(folder / "numbered.nii.gz", np.diag([0.5, 0.5, 1.25, 1.0]), (*SHAPE, 2))
    write_label(folder / "flat.nii.gz", np.ones((20, 20), np.uint8))
    array = np.ones(SHAPE, np.float32)
    array[1, 2, 3] = np.inf
    write_label(folder / "infinite.nii.gz", array)
    (folder / "truncated.nii.gz").write_bytes((folder / "a.nii.gz").read_bytes()[:800])
    return folder


@pytest.fixture(scope="module")
def server(served: Path, start_server: Callable[..., Server]) -> Server:
    return start_server(served).wait()


@pytest.fixture(scope="module")
def with_model(server: Server, served: Path) -> Server:
    publish(served / "models", LabelScheme(("inside", "tubule"), "outside"))
    return server


# Before anything is annotated or trained; these tests come first.


def test_info_before_training(server: Server) -> None:
    info = server.client.info()
    assert info["labels"] == SEGMENTS
    assert info["models"] == {}
    assert list(info["trainers"]) == ["sparse_unet3d"]
    assert list(info["strategies"]) == ["random", "first", "sparse", "next_slice"]
    assert list(info["scoring"]) == ["iou"]
    assert "width 8" in info["description"] or "GPU" in info["description"]
    assert info["datastore"]["completed"] == 0


def test_what_cannot_be_done_yet_is_refused(server: Server) -> None:
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
    assert "one class alone can't be learnt from" in reply.json()["next"]
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
    # Slicer shows the JSON as it is, the first lines at once, and codes for all that isn't ASCII.
    assert next(iter(reply)) == "message"
    assert "\\u" not in json.dumps(reply)
    label[paint() == 2] = 0
    label[:, :, 6] = 0
    reply = server.client.save_label("a", str(write_label(tmp_path / "label.nii.gz", label)), params=params)
    assert reply["version"] == 2
    gone = [warning for warning in reply["warnings"] if "axis 2 (I-S, axial): 6; version 1 still holds them" in warning]
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


# What clients get wrong


@pytest.fixture
def unchanged(server: Server, served: Path) -> object:
    """The test changes no stored file, and the server answers afterwards."""
    before = snapshot(served)
    yield
    assert snapshot(served) == before
    assert server.get("/info/").status_code == 200


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("case", "status", "words"),
    [
        ("unknown image", 404, "'nobody'"),
        ("other shape", 400, "20, 18, 11"),
        ("other place", 400, "grid"),
        ("not whole", 400, "whole number"),
        ("empty", 400, "no paint"),
        ("unknown segment", 400, "'nucleus'"),
        ("truncated", 400, "damaged"),
        ("tag original", 400, "'original'"),
        ("tag version_1", 400, "'version_1'"),
        ("tag prediction", 400, "'prediction'"),
        ("of a 2-D image", 400, "flat.nii.gz"),
    ],
)
def test_bad_labels(server: Server, tmp_path: Path, case: str, status: int, words: str) -> None:
    label, params = as_slicer_sends(paint())
    affine = scaled(*SPACING)
    image, tag = "a", case.removeprefix("tag ") if case.startswith("tag ") else ""
    if case == "unknown image":
        image = "nobody"
    elif case == "of a 2-D image":
        image = "flat"
    elif case == "other shape":
        label = label[:, :, 1:]
    elif case == "other place":
        affine[2, 3] += 2
    elif case == "empty":
        label[:] = 0
    elif case == "unknown segment":
        params["label_info"][3]["name"] = "nucleus"
    file = write_label(tmp_path / "label.nii.gz", label + np.float32(0.25) if case == "not whole" else label, affine)
    if case == "truncated":
        file.write_bytes(file.read_bytes()[:100])
    reply = server.put_label(image, file, params, tag)
    assert reply.status_code == status
    assert words in reply.json()["detail"]


@pytest.mark.usefixtures("unchanged")
def test_bad_uploads_of_images(server: Server, served: Path, tmp_path: Path) -> None:
    for name, words in (("infinite", "1 values are infinite"), ("flat", "2-D"), ("truncated", "damaged")):
        reply = server.put_image("new", shutil.copy(served / f"{name}.nii.gz", tmp_path / "new.nii.gz"))
        assert reply.status_code == 400
        assert words in reply.json()["detail"]
        assert "'new'" in reply.json()["detail"]
    assert server.put_image("a", write_image(tmp_path / "a.nii.gz", seed=5)).status_code == 400
    assert server.put_image("../a", write_image(tmp_path / "a.nii.gz", seed=5)).status_code == 400


@pytest.mark.usefixtures("unchanged")
def test_unknown_names_are_not_found(server: Server) -> None:
    url = server.url
    for reply in (
        requests.post(f"{url}/activelearning/best", json={}, timeout=PATIENCE),
        requests.post(f"{url}/infer/other", params={"image": "a"}, timeout=PATIENCE),
        requests.post(f"{url}/train/other", json={}, timeout=PATIENCE),
        requests.post(f"{url}/scoring/dice", json={}, timeout=PATIENCE),
        requests.post(f"{url}/batch/infer/other", json={}, timeout=PATIENCE),
        requests.delete(f"{url}/datastore/image", params={"id": "nobody"}, timeout=PATIENCE),
        requests.delete(f"{url}/datastore/label", params={"id": "b", "tag": "version_9"}, timeout=PATIENCE),
        server.get("/datastore/label", params={"label": "a", "tag": "version_9"}),
        server.get("/datastore/image", params={"image": "nobody"}),
        server.infer("nobody"),
    ):
        assert reply.status_code == 404, reply.text


@pytest.mark.usefixtures("unchanged")
def test_annotations_are_not_deleted(server: Server) -> None:
    for tag in ("final", "original", "version_1"):
        reply = requests.delete(f"{server.url}/datastore/label", params={"id": "a", "tag": tag}, timeout=PATIENCE)
        assert (reply.status_code, "never deleted" in reply.text) == (400, True)
    assert requests.delete(f"{server.url}/datastore/image", params={"id": "a"}, timeout=PATIENCE).status_code == 400


@pytest.mark.usefixtures("unchanged")
def test_bad_training_options(server: Server) -> None:
    for options in ({"max_epochs": "many"}, {"start": "again"}, {"max_minutes": [-1]}):
        reply = requests.post(f"{server.url}/train/sparse_unet3d", json=options, timeout=PATIENCE)
        assert reply.status_code == 400
        assert next(iter(options)) in reply.json()["detail"]
    assert requests.get(f"{server.url}/train/", timeout=PATIENCE).status_code == 404


# With a model


def test_a_model_is_offered_once_it_is_published(with_model: Server) -> None:
    models = with_model.client.info()["models"]
    # The plugin takes the first of a type that it is not told to use.
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
        # Whatever a client asks for, a prediction gets nowhere but under its own tag.
        reply = with_model.infer("a", result_extension=ending, save_label=True, label_tag="final")
        params, file = parts(reply, tmp_path)
        assert params["label_names"] == PREDICTED
        assert params["model"]["score"] == 0.5
        assert file.name.endswith(ending)
    # Sent results are deleted, right after the reply.
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
    # NRRD: LPS. Slicer takes the axes of the file for those of LPS.
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
        ("infinite", ["infinite.nii.gz", "1 values are infinite"]),
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
    reply = requests.post(f"{with_model.url}/scoring/iou", params={"run_sync": "true"}, json={}, timeout=PATIENCE)
    assert set(reply.json()["images"]["a"]["iou"]) == {"inside", "tubule"}


def test_models_are_downloaded_but_published_by_training_only(with_model: Server, served: Path) -> None:
    model = (served / "models/model.pt").read_bytes()
    assert with_model.get("/model/sparse_unet3d").content == model
    reply = requests.put(f"{with_model.url}/model/sparse_unet3d", files={"file": ("model.pt", b"x")}, timeout=PATIENCE)
    assert reply.status_code == 400
    assert (served / "models/model.pt").read_bytes() == model


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
