"""The slices that a live server suggests to paint next."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import requests
import torch
from monailabel.client.client import MONAILabelClientException

from lib.core.annotation.slices import AnnotatedSlice
from lib.core.annotation.suggestion import Evidence, suggest_slices
from lib.core.labels import LabelScheme
from lib.server.slicer.marks import mark_slices
from serving import PATIENCE, SHAPE, Server, as_slicer_sends, paint, parts, publish, stored, write_image, write_label

SCHEME = LabelScheme(("inside", "tubule"), "outside")
ANNOTATED = [[6, 10], [5, 9], [4, 6]]
"""Slices of ``paint``."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    for seed, name in enumerate(("a", "b", "full"), start=1):
        write_image(folder / f"{name}.nii.gz", seed=seed)
    return folder


@pytest.fixture(scope="module")
def server(served: Path, start_server: Callable[..., Server]) -> Server:
    return start_server(served, width="2").wait()


def ask(server: Server, anew: bool = True) -> requests.Response:
    """Press Next Sample; with ``anew``, as if no image had been offered before."""
    if anew:
        server.forget_offers("a", "b", "full")
    return requests.post(f"{server.url}/activelearning/next_slice", json={}, timeout=PATIENCE)


def annotated_places() -> list[AnnotatedSlice]:
    return [AnnotatedSlice(axis, index) for axis, indices in enumerate(ANNOTATED) for index in indices]


def expected(served: Path, image: str, count: int) -> list[tuple[int, int]]:
    """Return the slices that follow from the stored prediction."""
    final = stored(served, "final", image) if (served / f"labels/final/{image}.nii.gz").exists() else None
    annotation = np.zeros(SHAPE, np.uint8) if final is None else final
    evidence = Evidence(SCHEME, annotation, stored(served, "prediction", image), stored(served, "uncertainty", image))
    annotated = [] if final is None else annotated_places()
    return [tuple(found.place) for found in suggest_slices(SHAPE, annotated, count, evidence)]


# These tests come first, before there is a model.


def test_without_a_model_slices_are_spread_evenly(server: Server, tmp_path: Path) -> None:
    sample = ask(server).json()
    assert sample["id"] == "a"
    assert Path(sample["path"]).name == "a.nii.gz"
    assert (sample["slice"]["axis"], sample["slice"]["index"]) == (0, SHAPE[0] // 2)
    assert sample["slice"]["score"] is None
    assert "no model yet" in sample["note"]
    # As with other strategies, another image comes next.
    assert ask(server, anew=False).json()["id"] == "b"

    params, file = parts(server.infer("a", "next_slices"), tmp_path)
    places = [AnnotatedSlice(axis, SHAPE[axis] // 2) for axis in range(3)]
    assert [(found["axis"], found["index"]) for found in params["slices"]] == places
    np.testing.assert_array_equal(np.asarray(nibabel.load(file).dataobj), mark_slices(SHAPE, places))


def test_annotated_slices_are_not_suggested(server: Server, served: Path, tmp_path: Path) -> None:
    label, params = as_slicer_sends(paint())
    reply = server.put_label("a", write_label(tmp_path / "label.nii.gz", label), params)
    # Each axis has two annotated slices; the widest gap of the first axis is beyond its last one, at 10.
    assert reply.json()["paint_next"] == "axis 0 (L-R, sagittal): 15: spread evenly over the volume"
    found = parts(server.infer("a", "next_slices", slices=9), tmp_path)[0]["slices"]
    assert len(found) == 9
    assert all(place["index"] not in ANNOTATED[place["axis"]] for place in found)


# With a model


@pytest.fixture(scope="module")
def with_model(server: Server, served: Path) -> Server:
    torch.manual_seed(1)
    publish(served / "models", SCHEME)
    return server


def test_slices_are_those_of_the_latest_prediction(with_model: Server, served: Path, tmp_path: Path) -> None:
    params, file = parts(with_model.infer("a", "next_slices"), tmp_path)
    assert params["label_names"] == {"annotate here": 1}
    assert "segmented again" in params["note"]
    places = [(found["axis"], found["index"]) for found in params["slices"]]
    assert places == expected(served, "a", 3)
    assert all(
        0 < found["score"] <= 1 and "% of all objects and uncertainty" in found["why"] for found in params["slices"]
    )
    marks = np.asarray(nibabel.load(file).dataobj)
    np.testing.assert_array_equal(marks, mark_slices(SHAPE, [AnnotatedSlice(*place) for place in places]))
    # The annotation hasn't changed.
    np.testing.assert_array_equal(stored(served, "final", "a"), paint())

    before = (served / "labels/prediction/a.json").read_bytes()
    again, _ = parts(with_model.infer("a", "next_slices", slices=2), tmp_path)
    assert again["note"] == ""
    assert [(found["axis"], found["index"]) for found in again["slices"]] == expected(served, "a", 2)
    assert (served / "labels/prediction/a.json").read_bytes() == before


def test_uncertainty_is_kept_with_the_prediction(with_model: Server, served: Path) -> None:
    assert with_model.infer("b").status_code == 200
    labels, entropy = stored(served, "prediction", "b"), stored(served, "uncertainty", "b") / 255
    means = [entropy[labels == value].mean() for value in np.unique(labels)]
    info = json.loads((served / "labels/prediction/b.json").read_text())
    assert info["uncertainty"] == pytest.approx(np.mean(means), abs=1e-3)
    assert entropy.std() > 0.01


def set_uncertainty(server: Server, values: dict[str, float]) -> None:
    for image, value in values.items():
        server.set_label_info(image, "prediction", {"uncertainty": value})


def test_the_image_with_the_most_uncertain_prediction_comes_first(with_model: Server, served: Path) -> None:
    set_uncertainty(with_model, {"a": 0.2, "b": 0.3})
    sample = ask(with_model).json()
    # The third image counts as the mean of these two.
    assert sample["id"] == "b"
    assert sample["uncertainty"] == 0.3
    ((axis, index),) = expected(served, "b", 1)
    place = sample["slice"]
    assert (place["axis"], place["index"]) == (axis, index)
    assert place["name"].endswith(str(index))
    affine = nibabel.load(served / "b.nii.gz").affine
    middle = [(length - 1) / 2 for length in SHAPE]
    middle[axis] = index
    np.testing.assert_allclose(place["position"], nibabel.affines.apply_affine(affine, middle), atol=1e-2)
    set_uncertainty(with_model, {"a": 0.4})
    assert ask(with_model).json()["id"] == "a"


def test_the_expected_gain_of_the_next_slice(with_model: Server, served: Path, tmp_path: Path) -> None:
    unknown = ask(with_model).json()
    assert (unknown["expected_gain"], unknown["expected_gain_interval"]) == (None, None)
    history = served / "models/history.json"
    (one,) = json.loads(history.read_text())
    history.write_text(json.dumps([{**one, "slices": n, "score": 0.9 - 1.2 / n} for n in (6, 10)]))
    for known in (ask(with_model).json(), parts(with_model.infer("a", "next_slices"), tmp_path)[0]):
        assert known["expected_gain"] == pytest.approx(1.2 / 10 - 1.2 / 11, abs=1e-4)
        assert known["expected_gain_interval"] == pytest.approx([0, 1.2 / 10 - 1.2 / 11 + 0.0292], abs=1e-4)
    label, params = as_slicer_sends(paint())
    reply = with_model.put_label("b", write_label(tmp_path / "label.nii.gz", label), params).json()
    (best,) = parts(with_model.infer("b", "next_slices", slices=1), tmp_path)[0]["slices"]
    assert reply["paint_next"].startswith(f"{best['name']}: newly covers ")
    assert reply["paint_next"].endswith("it adds about 0.011 IoU (0.000 to 0.040)")
    history.write_text(json.dumps([one]))


def test_a_prediction_of_an_older_model_is_made_again(with_model: Server, served: Path, tmp_path: Path) -> None:
    info = json.loads((served / "labels/prediction/a.json").read_text())
    with_model.set_label_info("a", "prediction", {"model": {**info["model"], "epoch": 1}})
    # Not for the reply to a submission, which is to come soon, but it says so.
    label, painted = as_slicer_sends(paint())
    reply = with_model.put_label("a", write_label(tmp_path / "label.nii.gz", label), painted)
    assert "all objects and uncertainty (by an earlier model's prediction)" in reply.json()["paint_next"]
    params, _ = parts(with_model.infer("a", "next_slices"), tmp_path)
    assert "segmented again" in params["note"]
    assert json.loads((served / "labels/prediction/a.json").read_text())["model"] == info["model"]


def test_a_completely_annotated_image_is_passed_over(with_model: Server, served: Path, tmp_path: Path) -> None:
    label, painted = as_slicer_sends(np.where(np.indices(SHAPE).sum(axis=0) % 2, 3, 1).astype(np.uint8))
    assert with_model.put_label("full", write_label(tmp_path / "label.nii.gz", label), painted).status_code == 200
    assert with_model.infer("full").status_code == 200
    # It would be useless to segment this image again.
    of_another = {"uncertainty": 0.9, "model": {"run": "another"}}
    with_model.set_label_info("full", "prediction", of_another)
    assert ask(with_model).json()["id"] != "full"
    # The plugin shows that as no marks; an error would be a dialog with a traceback.
    params, file = parts(with_model.infer("full", "next_slices"), tmp_path)
    assert params["slices"] == []
    assert "every slice is annotated" in params["note"]
    assert not np.asarray(nibabel.load(file).dataobj).any()
    assert json.loads((served / "labels/prediction/full.json").read_text())["model"] == of_another["model"]
    reply = with_model.put_label("full", tmp_path / "label.nii.gz", painted)
    assert "every slice is annotated" in reply.json()["paint_next"]


def test_a_partly_painted_slice_is_not_suggested_again_but_one_with_a_dab_may_be(
    with_model: Server, served: Path, tmp_path: Path
) -> None:
    annotation = np.zeros(SHAPE, np.uint8)
    annotation[8, :9, 6:] = 1
    annotation[12:16, 12:16, 3] = 3
    label, painted = as_slicer_sends(annotation)
    assert with_model.put_label("b", write_label(tmp_path / "label.nii.gz", label), painted).status_code == 200
    known = json.loads((served / "labels/final/b.json").read_text())["statistics"]
    assert known["annotated_slices"] == [[8], [], [3]]
    assert known["mostly_unpainted"] == [[], [], [3]]
    found = parts(with_model.infer("b", "next_slices", slices=30), tmp_path)[0]["slices"]
    named = [(place["axis"], place["index"]) for place in found]
    assert len(set(named)) == 30
    assert (2, 3) in named
    assert (0, 8) not in named


@pytest.mark.parametrize(
    ("image", "params", "words"),
    [
        ("a", {"slices": 0}, "slices: 0; give a whole number"),
        ("a", {"slices": 31}, "slices: 31; give a whole number from 1 to 30"),
        ("a", {"slices": "many"}, "slices: 'many'"),
        ("a", {"result_extension": ".tif"}, "result_extension"),
    ],
)
def test_impossible_requests_are_refused(
    with_model: Server, served: Path, image: str, params: dict[str, Any], words: str
) -> None:
    reply = with_model.infer(image, "next_slices", **params)
    assert reply.status_code == 400
    assert words in reply.json()["detail"]


def test_slices_are_suggested_in_images_of_the_studies_folder_only(with_model: Server, tmp_path: Path) -> None:
    elsewhere = write_image(tmp_path / "elsewhere.nii.gz", seed=1)
    session = with_model.client.create_session(str(elsewhere))["session_id"]
    with pytest.raises(MONAILabelClientException, match="in images of the studies folder only"):
        with_model.client.infer("next_slices", "", {}, session_id=session)
    _, params = with_model.client.infer("sparse_unet3d", "", {}, file=str(elsewhere))
    assert params["label_names"] == {"inside (predicted)": 1, "tubule (predicted)": 2}


def test_run_reuses_the_prediction_of_next_sample(with_model: Server, served: Path, tmp_path: Path) -> None:
    def segmented() -> int:
        return with_model.log.read_text().count(": 100 %")

    torch.manual_seed(2)
    publish(served / "models", SCHEME)
    before = segmented()
    of_another = {"model": {"run": "another"}, "uncertainty": 0.95}
    with_model.set_label_info("a", "prediction", of_another)
    sample = ask(with_model).json()
    assert sample["id"] == "a"
    assert "segmented again" in sample["note"]
    assert segmented() == before + 1
    params, file = parts(with_model.infer("a"), tmp_path)
    assert segmented() == before + 1
    first = np.asarray(nibabel.load(file).dataobj)
    np.testing.assert_array_equal(first, stored(served, "prediction", "a"))
    assert params["label_names"] == {"inside (predicted)": 1, "tubule (predicted)": 2}

    # A prediction of another image of the same name, or of another model, isn't reused.
    write_image(served / "a.nii.gz", seed=9)
    _, file = parts(with_model.infer("a"), tmp_path)
    assert segmented() == before + 2
    assert (np.asarray(nibabel.load(file).dataobj) != first).any()
    torch.manual_seed(3)
    publish(served / "models", SCHEME)
    assert with_model.infer("a").status_code == 200
    assert segmented() == before + 3
