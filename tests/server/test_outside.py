"""An image with NaN outside the recorded region, through the real server."""

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from lib.core.labels import LabelScheme
from serving import NAMED, SHAPE, SPACING, Server, paint, parts, publish, scaled, write_label


@pytest.mark.slow
def test_unrecorded_voxels_are_reported_and_never_predicted(
    tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    image = np.random.default_rng(0).normal(100, 20, SHAPE).astype(np.float32)
    image[:9] = np.nan
    nibabel.save(nibabel.Nifti1Image(image, scaled(*SPACING)), studies / "a.nii.gz")
    publish(studies / "models", LabelScheme(("inside", "tubule"), "outside"))
    server = start_server(studies).wait()
    said = f"{9 * SHAPE[1] * SHAPE[2]} voxels are NaN and count as outside"
    sample = server.next_sample("sparse")
    assert said in sample.json()["notes"][0]
    assert said in server.log.read_text()
    label = write_label(tmp_path / "label.nii.gz", paint())
    assert said in "\n".join(server.put_label("a", label, NAMED).json()["warnings"])
    _, file = parts(server.infer("a", result_extension=".nii.gz"), tmp_path)
    prediction = np.asarray(nibabel.load(file).dataobj)
    assert prediction.shape == SHAPE
    assert not prediction[:9].any()
