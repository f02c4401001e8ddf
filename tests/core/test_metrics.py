import numpy as np
import pytest

from lib.core.labels import LabelScheme
from lib.core.metrics import confusion, iou_per_class, mean_iou

SCHEME = LabelScheme(("inside", "tubule"), "outside")


def test_iou_agrees_with_sets_of_voxels() -> None:
    generator = np.random.default_rng(0)
    prediction = generator.integers(0, 3, size=(6, 7, 8)).astype(np.uint8)
    annotation = generator.integers(0, 4, size=(6, 7, 8)).astype(np.uint8)
    labelled = {p for p in np.ndindex(annotation.shape) if annotation[p] != 0}
    found = iou_per_class(confusion(prediction, annotation, SCHEME), SCHEME)
    for value, name in enumerate(SCHEME.foreground, start=1):
        true = {p for p in labelled if annotation[p] == value}
        said = {p for p in labelled if prediction[p] == value}
        assert found[name] == pytest.approx(len(true & said) / len(true | said))


def test_only_labelled_voxels_count() -> None:
    annotation = np.array([1, 2, 3, 0, 0], dtype=np.uint8)
    prediction = np.array([1, 2, 0, 1, 2], dtype=np.uint8)
    assert iou_per_class(confusion(prediction, annotation, SCHEME), SCHEME) == {"inside": 1.0, "tubule": 1.0}


def test_a_class_without_voxels_has_no_iou() -> None:
    annotation = np.array([1, 3], dtype=np.uint8)
    prediction = np.array([1, 0], dtype=np.uint8)
    found = iou_per_class(confusion(prediction, annotation, SCHEME), SCHEME)
    assert found == {"inside": 1.0, "tubule": None}
    assert mean_iou(found) == 1.0
    assert mean_iou({"inside": None}) is None
