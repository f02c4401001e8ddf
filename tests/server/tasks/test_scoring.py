"""IoU of stored predictions against annotations."""

from pathlib import Path

import numpy as np
import pytest

from lib.core.labels import LabelScheme
from lib.core.model.folder import ModelFolder
from lib.core.model.model import Model
from lib.server.conf import Conf
from lib.server.store.datastore import AnnotationStore
from lib.server.store.predictions import facts
from lib.server.tasks.scoring import IouScoring
from lib.server.tasks.trainer import Trainer
from serving import NAMED, SHAPE, SPACING, paint, scaled, stored, write_label

SCHEME = LabelScheme(("inside", "tubule"), "outside")


def test_iou_counts_annotated_voxels_only(studies: Path, tmp_path: Path) -> None:
    store = AnnotationStore(str(studies), SCHEME)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    prediction = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
    store.save_prediction("a", prediction, prediction, scaled(*SPACING), {})
    result = IouScoring(SCHEME, "unlabelled")({}, store)
    expected = {}
    for value, name in ((1, "inside"), (2, "tubule")):
        both = either = 0
        for said, true in zip(prediction.flat, paint().flat, strict=True):
            if true:
                both += said == value and true == value
                either += said == value or true == value
        expected[name] = both / either
    assert result["images"]["a"]["iou"] == pytest.approx(expected)
    assert result["all"]["mean_iou"] == pytest.approx(sum(expected.values()) / 2)
    assert store.get_label_info("a", "prediction")["iou"] == pytest.approx(expected)


def test_unpainted_voxels_of_annotated_slices_count_as_background_if_asked(studies: Path, tmp_path: Path) -> None:
    store = AnnotationStore(str(studies), SCHEME)
    painted = np.where(paint() == 3, 0, paint()).astype(np.uint8)
    painted[1:4, 1, 0] = 1
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", painted)), "final", NAMED)
    prediction = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
    store.save_prediction("a", prediction, prediction, scaled(*SPACING), {})
    result = IouScoring(SCHEME, "background")({}, store)
    for value, name in ((1, "inside"), (2, "tubule")):
        both = either = 0
        for x, y, z in np.ndindex(SHAPE):
            said, true = prediction[x, y, z], painted[x, y, z]
            if true or x in (6, 10) or y in (5, 9) or z in (4, 6):
                both += said == value and true == value
                either += said == value or true == value
        assert result["images"]["a"]["iou"][name] == pytest.approx(both / either)
    assert (stored(studies, "final") == painted).all()


def test_nothing_to_score(studies: Path, tmp_path: Path) -> None:
    store = AnnotationStore(str(studies), SCHEME)
    scoring = IouScoring(SCHEME, "unlabelled")
    nothing = {"images": {}, "all": {"iou": {"inside": None, "tubule": None}, "mean_iou": None}}
    assert scoring({}, store) == nothing
    store.save_prediction("a", np.ones(SHAPE, np.uint8), np.ones(SHAPE, np.uint8), scaled(*SPACING), {})
    assert scoring({}, store) == nothing
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    # A prediction of a model with other classes, of another image on the same grid, on another grid, and a damaged one.
    other = LabelScheme(("vessel",), "outside")
    AnnotationStore(str(studies), other).save_prediction(
        "a", np.ones(SHAPE, np.uint8), np.ones(SHAPE, np.uint8), scaled(*SPACING), {}
    )
    store.refresh()
    assert scoring({}, store) == nothing
    store.save_prediction("a", np.ones(SHAPE, np.uint8), np.ones(SHAPE, np.uint8), scaled(*SPACING), {"image": 1})
    assert scoring({}, store) == nothing
    store.save_prediction("a", np.ones((4, 4, 4), np.uint8), np.ones((4, 4, 4), np.uint8), scaled(*SPACING), {})
    assert scoring({}, store) == nothing
    (studies / "labels/prediction/a.nii.gz").write_bytes(b"x")
    assert scoring({}, store) == nothing


def trained(studies: Path) -> tuple[ModelFolder, Model]:
    """A model that the trainer trained on the annotations, as in the server."""
    conf = Conf.parse({"width": "2"}, str(studies))
    Trainer(conf)({"max_epochs": 1, "max_minutes": 0.001}, AnnotationStore(str(studies), SCHEME))
    folder = ModelFolder(conf.models)
    return folder, folder.load(SCHEME)


def plain_iou(prediction: np.ndarray, truth: np.ndarray, voxels: np.ndarray) -> dict[str, float]:
    found = {}
    for value, name in ((1, "inside"), (2, "tubule")):
        said, true = (prediction == value) & voxels, (truth == value) & voxels
        found[name] = np.count_nonzero(said & true) / np.count_nonzero(said | true)
    return found


def test_learnt_and_held_out_voxels_are_scored_separately(studies: Path, tmp_path: Path) -> None:
    store = AnnotationStore(str(studies), SCHEME)
    annotation = paint()
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", annotation)), "final", NAMED)
    folder, model = trained(studies)
    (held,) = model.split.validation["a"]
    learnt_planes = model.split.training["a"]
    prediction = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
    store.save_prediction("a", prediction, prediction, scaled(*SPACING), {"model": facts(model)})

    on_held, on_learnt = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    np.moveaxis(on_held, held.axis, 0)[held.index] = True
    for axis, index in learnt_planes:
        np.moveaxis(on_learnt, axis, 0)[index] = True
    painted = annotation > 0
    result = IouScoring(SCHEME, "unlabelled", folder)({}, store)
    scores = result["images"]["a"]
    assert scores["by_published_model"] is True
    assert scores["iou"] == pytest.approx(plain_iou(prediction, annotation, painted))
    assert result["held_out"] == scores["held_out"]
    assert result["held_out"]["iou"] == pytest.approx(plain_iou(prediction, annotation, painted & on_held & ~on_learnt))
    assert result["learnt"]["iou"] == pytest.approx(plain_iou(prediction, annotation, painted & on_learnt))
    assert "note" not in result

    # Newly painted voxels were neither learnt from nor held out, so the scores of the old slices stay the same.
    newer = annotation.copy()
    newer[13] = np.where(newer[13] == 0, 1, newer[13])
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", newer)), "final", NAMED)
    since = IouScoring(SCHEME, "unlabelled", folder)({}, store)
    assert since["learnt"] == result["learnt"]
    assert since["all"] != result["all"]

    # It is unknown what another model learnt from.
    store.save_prediction(
        "a", prediction, prediction, scaled(*SPACING), {"model": {**facts(model), "run": "an earlier one"}}
    )
    result = IouScoring(SCHEME, "unlabelled", folder)({}, store)
    assert result["images"]["a"]["by_published_model"] is False
    assert "learnt" not in result["images"]["a"]
    assert result["held_out"] == {"iou": {"inside": None, "tubule": None}, "mean_iou": None}
    assert "the predictions of a aren't by the published model. " in result["note"]
