"""A server with --conf unpainted background: a structure painted on slices is all that has to be submitted."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import requests

from serving import PATIENCE, Server, as_slicer_sends, paint, stored, write_image, write_label


def test_painting_one_structure_is_enough(studies: Path, tmp_path: Path, start_server: Callable[..., Server]) -> None:
    write_image(studies / "large.nii.gz", (60, 50, 8))
    server = start_server(studies, width="2", unpainted="background").wait()
    assert "unpainted voxels in annotated slices count as outside" in server.client.info()["description"]

    def submit(annotation: np.ndarray, image: str = "a") -> dict[str, object]:
        label, params = as_slicer_sends(annotation)
        return dict(server.client.save_label(image, str(write_label(tmp_path / "l.nii.gz", label)), params=params))

    stroke = np.zeros_like(paint())
    stroke[3:9, 5, 5] = 2
    reply = submit(stroke)
    assert "unpainted" not in reply
    assert any("no outside is painted" in warning for warning in reply["warnings"])
    assert "one class alone" in reply["next"]
    reply = requests.post(f"{server.url}/train/sparse_unet3d", json={"max_epochs": 1}, timeout=PATIENCE)
    assert (reply.status_code, "only the class 'tubule'" in reply.text) == (400, True)

    tubule = np.where(paint() == 2, 2, 0).astype(np.uint8)
    reply = submit(tubule)
    assert list(reply["annotated_slices"].values()) == ["6, 10", "5, 9", "4, 6"]
    assert reply["unpainted"] == "In these slices, voxels that you left unpainted count as outside."
    assert not any("outside" in warning for warning in reply["warnings"])
    assert not any("hardly" in warning for warning in reply["warnings"])
    assert reply["labelled_voxels"]["outside"] == 0
    assert "press Train" in reply["next"]
    reply = requests.post(
        f"{server.url}/train/sparse_unet3d", params={"run_sync": "true"}, json={"max_epochs": 1}, timeout=PATIENCE
    )
    assert reply.status_code == 200
    assert json.loads((studies / "models/plan.json").read_text())["unpainted"] == "background"
    assert (stored(studies, "final") == tubule).all()
    assert server.infer("a").status_code == 200

    dab = np.zeros((60, 50, 8), np.uint8)
    dab[10:15, 10:18, 4] = 2
    reply = submit(dab, "large")
    assert list(reply["annotated_slices"].values()) == ["none", "none", "4"]
    assert any("4: hardly anything is painted there" in warning for warning in reply["warnings"])

    reply = requests.post(f"{server.url}/scoring/iou", params={"run_sync": "true"}, json={}, timeout=PATIENCE)
    assert reply.json()["images"]["a"]["iou"]["tubule"] is not None
