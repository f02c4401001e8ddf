"""Train and Run in the real plugin: predictions appear beside the paint and never become part of it."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from annotator import Annotator
from images import AFFINES
from lib.core.labels import LabelScheme
from serving import SEGMENTS, SHAPE, Server, paint, publish, stored, write_image

pytestmark = pytest.mark.slow

MODEL = "sparse_unet3d"


# Run


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("place", ["RAS", "oblique, left-handed"])
def test_predictions_appear_and_paint_stays(
    open_slicer: Callable[..., Annotator], serve: Callable[..., None], studies: Path, tmp_path: Path, place: str
) -> None:
    serve(write_image(tmp_path / "image.nii.gz", affine=AFFINES[place], seed=1))
    annotator = open_slicer(autoRunSegmentationOnNextSample=False)
    annotator.next_sample()
    assert not annotator.prediction().any()
    annotator.paint_annotation(paint())
    annotator.submit()
    annotator.run()
    prediction = stored(studies, "prediction", "image")
    assert set(np.unique(prediction[paint() > 0])) == {0, 1, 2}
    assert (annotator.prediction() == prediction).all()
    assert (annotator.annotation() == paint()).all()
    assert annotator.segments() == SEGMENTS

    # The predicted segments lie over the paint, and are visible.
    reply = annotator.submit()
    assert (reply["version"], reply["warnings"]) == (2, [])
    assert (stored(studies, "final", "image") == paint()).all()

    # Slicer removes the voxels of a correction from the segments below it, the predicted ones.
    correction = np.zeros(SHAPE, np.uint8)
    correction[:, :, 9] = np.where(prediction[:, :, 9] == 1, 2, 3)
    annotator.paint_annotation(correction)
    annotator.submit()
    corrected = np.where(correction > 0, correction, paint())
    assert (stored(studies, "final", "image") == corrected).all()
    annotator.run()
    assert (annotator.prediction() == prediction).all()
    assert (annotator.annotation() == corrected).all()

    # The next scene shows the paint alone.
    later = open_slicer(autoRunSegmentationOnNextSample=False)
    later.next_sample()
    assert later.segments() == SEGMENTS
    assert (later.annotation() == corrected).all()
    assert not later.prediction().any()
    assert annotator.errors == later.errors == []


def test_predictions_lie_right_on_an_image_that_slicer_misreads(
    open_slicer: Callable[..., Annotator], serve: Callable[..., None], studies: Path, models: Path, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    publish(models, LabelScheme(("inside", "tubule"), "outside"), channels=3)
    serve(write_image(tmp_path / "image.nii.gz", (*SHAPE, 3), AFFINES["oblique"], seed=1))
    annotator = open_slicer(autoRunSegmentationOnNextSample=False)
    annotator.next_sample()
    annotator.run()
    assert (annotator.prediction() == stored(studies, "prediction", "image")).all()
    assert annotator.prediction().any()
    assert annotator.errors == []


@pytest.mark.usefixtures("published")
def test_predicted_segments_dragged_below_the_paint(
    open_slicer: Callable[..., Annotator], serve: Callable[..., None], studies: Path, tmp_path: Path
) -> None:
    """Slicer then submits the model's voxels instead of the paint: they are left out, and the annotator is told."""
    serve(write_image(tmp_path / "image.nii.gz", seed=1))
    annotator = open_slicer(autoRunSegmentationOnNextSample=False)
    annotator.next_sample()
    annotator.paint_annotation(paint())
    annotator.submit()
    annotator.run()
    annotator.move_segment("inside (predicted)", 5)
    (warning, *_) = annotator.submit()["warnings"]
    assert "'inside (predicted)' stands after" in warning
    left = np.where(annotator.painted("inside (predicted)"), 0, paint())
    assert (left != paint()).any()
    assert (stored(studies, "final", "image") == left).all()
    assert (stored(studies, "version_1", "image") == paint()).all()
    # Nothing is lost in Slicer; back in order all is submitted again.
    annotator.move_segment("inside (predicted)", 0)
    assert annotator.submit()["warnings"] == []
    assert (stored(studies, "final", "image") == paint()).all()


@pytest.mark.usefixtures("published")
def test_automatic_run_on_load_and_training_after_submit(
    open_slicer: Callable[..., Annotator], serve: Callable[..., None], server: Server, studies: Path, tmp_path: Path
) -> None:
    serve(write_image(tmp_path / "image.nii.gz", seed=1))
    # By default, the plugin runs the model on loading an image.
    annotator = open_slicer(autoUpdateModelV2=True)
    annotator.next_sample()
    assert (annotator.prediction() == stored(studies, "prediction", "image")).all()
    assert annotator.prediction().any()
    annotator.paint_annotation(paint())

    def trains() -> bool:
        # The plugin fails if it stops a training that hasn't reported anything yet.
        task = server.client.train_status()
        return task["status"] == "RUNNING" and bool(task["details"])

    # This training lasts until it is stopped.
    annotator.set_option("train", MODEL, "max_epochs", "100000")
    annotator.submit()
    server.wait_until(trains)
    first = server.client.train_status()
    # Submitting again stops the training, and starts it again on the new annotations.
    more = paint()
    more[[3, 12]] = 3
    annotator.paint_annotation(np.where(more != paint(), more, 0))
    annotator.submit()
    server.wait_until(trains)
    assert server.client.train_status()["id"] != first["id"]

    # A new scene during training shows the earlier paint and the prediction.
    later = open_slicer(autoUpdateModelV2=True)
    later.next_sample()
    assert later.segments() == SEGMENTS
    assert (later.annotation() == more).all()
    assert (later.prediction() == stored(studies, "prediction", "image")).all()
    later.stop()
    assert server.client.train_status()["status"] == "STOPPED"
    assert (stored(studies, "final", "image") == more).all()
    assert annotator.errors == later.errors == []


# Train


def watch_training(server: Server, annotator: Annotator, until: Callable[[], bool]) -> None:
    """Let the plugin poll the state of the training until a condition holds."""

    def reached() -> bool:
        annotator.let_time_pass()
        return until()

    server.wait_until(reached)


def test_train_stop_and_train_again(
    open_slicer: Callable[..., Annotator],
    serve: Callable[..., None],
    server: Server,
    studies: Path,
    tmp_path: Path,
) -> None:
    serve(write_image(tmp_path / "image.nii.gz", seed=1))
    annotator = open_slicer()
    ui = annotator.ui
    annotator.next_sample()
    assert not ui.trainingButton.enabled
    assert not ui.segmentationCollapsibleButton.visible
    # The difference between bright and dark is learnt quickly.
    annotation = np.where(paint() == 2, 1, paint())
    annotator.paint_annotation(annotation)
    annotator.submit()
    assert ui.activeLearningProgressBar.value == 100

    annotator.set_option("train", MODEL, "max_epochs", "1000")
    annotator.train()
    assert not ui.trainingButton.enabled
    assert ui.trainingProgressBar.value == 1
    watch_training(server, annotator, lambda: ui.trainingProgressBar.value > 1)
    shown = re.fullmatch(r"(\d+)/1000 epoch is completed", ui.trainingProgressBar.toolTip)
    assert shown
    assert ui.trainingProgressBar.value == int(shown[1]) * 100 // 1000
    run = server.client.info()["train_stats"][MODEL]["run"]
    annotator.stop()
    assert ui.trainingButton.enabled
    assert not ui.stopTrainingButton.enabled
    annotator.let_time_pass()
    assert ui.trainingProgressBar.toolTip == "Training: STOPPED"

    done = server.client.info()["train_stats"][MODEL]["epoch"]
    annotator.set_option("train", MODEL, "max_epochs", str(done + 4))
    annotator.train()
    watch_training(server, annotator, lambda: not ui.trainingProgressBar.toolTip.endswith(("STOPPED", "STARTED")))
    watch_training(server, annotator, lambda: ui.trainingProgressBar.toolTip == "Training: DONE")
    assert ui.trainingProgressBar.value == 100
    stats = server.client.info()["train_stats"][MODEL]
    assert (stats["run"], stats["epoch"], stats["finished"]) == (run, done + 4, True)
    assert ui.accuracyProgressBar.value == int(100 * stats["best_metric"]) > 0
    assert ui.accuracyProgressBar.toolTip == f"Accuracy: {stats['best_metric']:.4f}"

    # The model is available at once, and segments.
    annotator.run()
    assert (annotator.prediction() == stored(studies, "prediction", "image")).all()
    assert (annotator.annotation() == annotation).all()
    assert annotator.errors == []
