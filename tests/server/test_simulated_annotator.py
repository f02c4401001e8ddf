"""A simulated annotator who paints the slices that the live server suggests, until the segmentation is good."""

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from lib.core.annotation.slices import AnnotatedSlice, keep_slices
from lib.core.labels import LabelScheme
from lib.phantom.specimen import Specimen, write_samples
from lib.simulation.annotator import truth_as_annotation
from serving import Server, as_slicer_sends, write_label

pytestmark = pytest.mark.slow

MODEL = "sparse_unet3d"
SPECIMEN = Specimen((40, 36, 28), seed=3, calibre=20.0, tubules=0.25)
ROUNDS = 3


def test_painting_the_suggested_slices_improves_the_segmentation(
    tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    studies = tmp_path / "studies"
    (file,) = write_samples(studies, tmp_path / "truth", (SPECIMEN,))
    truth = np.asarray(nibabel.load(tmp_path / "truth" / file.name).dataobj)
    affine = nibabel.load(file).affine
    dense = truth_as_annotation(truth, LabelScheme(("inside", "tubule"), "outside"))
    server = start_server(studies, width="4").wait()
    places = [AnnotatedSlice(axis, length // 2) for axis, length in enumerate(truth.shape)]
    overlaps = []
    for number in range(1, ROUNDS + 1):
        label, params = as_slicer_sends(keep_slices(dense, places))
        reply = server.client.save_label(
            "kidney_1", str(write_label(tmp_path / "label.nii.gz", label, affine)), params=params
        )
        server.client.train_start(MODEL, {"max_epochs": 2 * number})
        server.wait_for_training(lambda _, status: status == "DONE")
        found, _ = server.client.infer(MODEL, "kidney_1", {"result_extension": ".nii.gz"})
        prediction = np.asarray(nibabel.load(found).dataobj)
        overlaps.append(np.mean([_iou(prediction == value, truth == value) for value in (1, 2)]))

        asked = server.client.next_sample("next_slice", {})
        assert asked["id"] == "kidney_1"
        place = AnnotatedSlice(asked["slice"]["axis"], asked["slice"]["index"])
        assert place not in places
        assert 0 < asked["slice"]["score"] < 1
        # The reply to a submission names the slice that Next Sample suggested, because nothing was trained since.
        if number == ROUNDS:
            again = server.client.save_label("kidney_1", str(tmp_path / "label.nii.gz"), params=params)
            assert again["paint_next"].startswith(f"{asked['slice']['name']}: newly covers ")
        elif number == 1:
            assert reply["paint_next"].endswith(": spread evenly over the volume")
        places.append(place)
    assert overlaps[-1] > max(0.5, overlaps[0])


def _iou(found: np.ndarray, true: np.ndarray) -> float:
    return np.count_nonzero(found & true) / np.count_nonzero(found | true)
