"""Predictions in a real archive: on request, marked as made automatically, and never taken for a version."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from lib.commands.sending import send_predictions
from lib.core.errors import InputError
from lib.core.volumes.reading import read_geometry
from lib.server.dicomweb.exchanging_store import ExchangingStore
from orthanc import Orthanc, needs_orthanc, voxels_of
from serving import paint, wait_until
from stores import submit

pytestmark = needs_orthanc

A, B = "1.2.3.1", "1.2.3.2"

PREDICTED = np.where(paint() == 3, 0, paint()).astype(np.uint8)


@pytest.fixture
def store(
    orthanc: Orthanc, open_project: Callable[..., ExchangingStore], tmp_path: Path, image: NDArray[np.int16]
) -> ExchangingStore:
    """A project with two images, of which one is predicted and annotated."""
    orthanc.add_series(tmp_path / "a", image, A)
    orthanc.add_series(tmp_path / "b", image + 1, B, StudyInstanceUID="1.2.4")
    store = open_project(orthanc.address)
    store.check_image(A)
    affine = read_geometry(store.get_image_uri(A)).affine
    model = {"run": "2026-11-30T08:00:00", "epoch": 7, "metric": "validation IoU", "score": 0.5, "statistics": "mixed"}
    store.save_prediction(A, PREDICTED, PREDICTED, affine, {"model": model})  # type: ignore[typeddict-item]
    submit(store, tmp_path, paint(), A, affine)
    wait_until(lambda: store.undelivered() == [])
    return store


def test_a_prediction_is_in_the_archive_once(store: ExchangingStore, orthanc: Orthanc, tmp_path: Path) -> None:
    for _ in range(2):
        ((text, is_sent),) = send_predictions(store.folder, [])
        assert is_sent, text
    files = [pydicom.dcmread(file) for file in sorted((tmp_path / "a").iterdir(), reverse=True)]
    made, version = orthanc.segmentations()
    assert voxels_of(made, files).tolist() == PREDICTED.tolist()
    assert voxels_of(version, files).tolist() == paint().tolist()
    assert [(one.SegmentLabel, one.SegmentAlgorithmType) for one in made.SegmentSequence] == [
        ("inside (predicted)", "AUTOMATIC"),
        ("tubule (predicted)", "AUTOMATIC"),
    ]
    (algorithm,) = made.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert algorithm.AlgorithmVersion == "run 2026-11-30T08:00:00, epoch 7"
    assert made.StudyInstanceUID == version.StudyInstanceUID == files[0].StudyInstanceUID


def test_a_prediction_does_not_come_back_as_a_version(
    store: ExchangingStore, orthanc: Orthanc, open_project: Callable[..., ExchangingStore]
) -> None:
    list(send_predictions(store.folder, [A]))
    store.close()
    shutil.rmtree(store.folder)
    again = open_project(orthanc.address)
    again.check_image(A)
    assert list(again.versions(A)) == [1]
    assert "prediction" not in again.get_labels_by_image_id(A)


def test_what_cannot_be_sent_is_named_and_the_others_are_sent(store: ExchangingStore, orthanc: Orthanc) -> None:
    (b, a) = send_predictions(store.folder, [B, A])
    assert b == (f"{B}: there is no prediction of it; images with one: {A}", False)
    assert a[1]
    orthanc.stop()
    ((text, is_sent),) = send_predictions(store.folder, [])
    assert f"{A}: {orthanc.address}: can't be reached" in text
    assert not is_sent


def test_a_project_without_an_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        list(send_predictions(tmp_path / "nothing", []))
    with pytest.raises(InputError, match="don't come from a DICOM archive"):
        list(send_predictions(tmp_path, []))


def test_a_project_without_a_prediction_is_refused(
    orthanc: Orthanc, open_project: Callable[..., ExchangingStore], tmp_path: Path, image: NDArray[np.int16]
) -> None:
    orthanc.add_series(tmp_path / "a", image, A)
    with pytest.raises(InputError, match="no image has a prediction yet"):
        list(send_predictions(open_project(orthanc.address).folder, []))
