"""Batch inference on the real server, by the engine of the command ``segment``."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lib.core.device.machine import Machine
from lib.core.inference.segmenter import Segmenter
from lib.core.labels import LabelScheme
from lib.core.model.folder import ModelFolder
from lib.core.model.model import Model
from lib.core.volumes.reading import read_volume
from serving import Server, publish, stored, write_image

pytestmark = pytest.mark.slow

START, STATE = "/batch/infer/sparse_unet3d", "/batch/infer"


def test_images_are_segmented_side_by_side_and_skipped_if_nothing_has_changed(
    tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    scheme = LabelScheme(("inside", "tubule"), "outside")
    publish(studies / "models", scheme)
    names = [f"v{number}" for number in range(4)]
    for number, name in enumerate(names):
        write_image(studies / f"{name}.nii.gz", seed=number)
    (studies / "damaged.nii.gz").write_bytes(b"damaged")
    # Memory for two processes
    server = start_server(studies, memory="8").wait()
    server.wait_until(lambda: len(server.client.datastore()["objects"]) == 5)
    done = server.run_job(START, STATE)
    assert (done["result"]["segmented"], done["result"]["up_to_date"]) == (names, [])
    assert list(done["result"]["failed"]) == ["damaged"]
    assert "damaged.nii.gz" in done["result"]["failed"]["damaged"]
    at_a_time = min(os.cpu_count() or 1, 2)
    assert f"Segmenting 5 images, {at_a_time} at a time" in server.log.read_text()
    assert any("5 of 5: " in line for line in done["details"])
    model = Model.load(studies / "models/model.pt")
    for name in names:
        expected = Segmenter.of(model).segment(read_volume(studies / f"{name}.nii.gz"), Machine("cpu", 2 * 10**9))
        np.testing.assert_array_equal(stored(studies, "prediction", name), expected)

    write_image(studies / "v1.nii.gz", seed=9)
    (studies / "labels/prediction/v2.nii.gz").unlink()
    again = server.run_job(START, STATE)["result"]
    assert (again["segmented"], again["up_to_date"]) == (["v1", "v2"], ["v0", "v3"])
    ModelFolder(studies / "models").publish(replace(model, run="another run"))
    assert server.run_job(START, STATE)["result"]["segmented"] == names
