"""The whole loop over a real server: sample, submit, train, stop, restart, continue, segment, find everything again."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from serving import SHAPE, SPACING, Server, as_slicer_sends, paint, scaled, stored, write_label
from stores import index_of

pytestmark = pytest.mark.slow

MODEL = "sparse_unet3d"


def test_the_whole_loop(studies: Path, tmp_path: Path, start_server: Callable[..., Server]) -> None:
    server = start_server(studies, width="2").wait()
    client = server.client

    # The annotator is offered both images in turn, and paints.
    for expected in ("a", "b"):
        sample = client.next_sample("sparse", {})
        assert sample["id"] == expected
        assert sample["path"] == str(studies / f"{expected}.nii.gz")
        label, params = as_slicer_sends(paint())
        reply = client.save_label(expected, str(write_label(tmp_path / "label.nii.gz", label)), params=params)
        assert reply["version"] == 1
    # Both have the same number of slices, so a comes again. The stock strategies have nothing more to offer.
    assert client.next_sample("sparse", {})["id"] == "a"
    assert client.next_sample("first", {}) == {}

    # Train; stop after the first epoch.
    started = client.train_start(MODEL, {"max_epochs": 5000, "max_minutes": 0, "start": "continue"})
    assert started["check"] == {"left_out": []}
    stats = server.wait_for_training(lambda stats, _: stats["epoch"] >= 1)
    assert stats["total_epochs"] == 5000
    assert not stats["total_time"]
    assert isinstance(stats["best_metric"], float)
    assert stats["metric"] == "validation IoU"
    client.train_stop()
    assert client.train_status()["status"] == "STOPPED"
    run = stats["run"]

    # The server is restarted: everything is there.
    before = index_of(studies)
    server.stop()
    server = start_server(studies, width="2").wait()
    client = server.client
    assert client.datastore()["objects"] == before
    for image in ("a", "b"):
        for tag in ("final", "version_1"):
            downloaded = nibabel.load(client.download_label(image, tag))
            assert (np.asarray(downloaded.dataobj) == paint()).all()
            assert np.allclose(downloaded.affine, scaled(*SPACING))
    stopped = client.info()["train_stats"][MODEL]
    assert (stopped["run"], stopped["finished"]) == (run, False)
    assert stopped["epoch"] >= stats["epoch"]
    # A submission during training doesn't disturb the training.
    end = stopped["epoch"] + 4
    client.train_start(MODEL, {"max_epochs": end})
    better = paint()
    better[[3, 12]] = 3
    label, params = as_slicer_sends(better)
    reply = client.save_label("b", str(write_label(tmp_path / "label.nii.gz", label)), params=params)
    assert reply["version"] == 2

    # Training goes on in the same run, to its end.
    stats = server.wait_for_training(lambda _, status: status == "DONE")
    assert (stats["run"], stats["epoch"], stats["finished"]) == (run, end, True)
    assert stats["total_time"]
    assert (studies / "models/model.pt").is_file()
    plan = json.loads((studies / "models/plan.json").read_text())
    assert plan["scheme"]["foreground"] == ["inside", "tubule"]
    assert list((studies / "models/events").iterdir())

    # Segment; the paint stays unchanged.
    file, params = client.infer(MODEL, "a", {"result_extension": ".nii.gz"})
    prediction = np.asarray(nibabel.load(file).dataobj)
    assert prediction.shape == SHAPE
    assert list(params["label_names"]) == ["inside (predicted)", "tubule (predicted)"]
    assert params["model"]["run"] == run
    assert (stored(studies, "prediction") == prediction).all()
    assert (stored(studies, "final") == paint()).all()
    assert (stored(studies, "final", "b") == better).all()
    assert (stored(studies, "version_1", "b") == paint()).all()
