"""A server with --conf unpainted background: only the structure has to be painted on the slices."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import requests

from lib.core.annotation.statistics import annotation_statistics
from lib.core.labels import LabelScheme
from lib.server.slicer.replies import submission_reply
from lib.server.slicer.slice_names import SliceNames
from serving import PATIENCE, Server, as_slicer_sends, paint, stored, write_image, write_label

pytestmark = pytest.mark.slow


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
    assert "training needs at least two classes" in reply["next"]
    reply = requests.post(f"{server.url}/train/sparse_unet3d", json={"max_epochs": 1}, timeout=PATIENCE)
    assert (reply.status_code, "only the class 'tubule'" in reply.text) == (400, True)

    tubule = np.where(paint() == 2, 2, 0).astype(np.uint8)
    reply = submit(tubule)
    assert list(reply["annotated_slices"].values()) == ["6, 10", "5, 9", "4, 6"]
    assert reply["unpainted"] == "Unpainted voxels in these slices count as outside."
    assert not any("outside" in warning for warning in reply["warnings"])
    assert not any("hardly" in warning for warning in reply["warnings"])
    assert reply["labelled_voxels"]["outside"] == 0
    assert "press Train" in reply["next"]
    server.run_job("/train/sparse_unet3d", "/train/", max_epochs=1)
    assert json.loads((studies / "models/plan.json").read_text())["unpainted"] == "background"
    assert (stored(studies, "final") == tubule).all()
    assert server.infer("a").status_code == 200

    dab = np.zeros((60, 50, 8), np.uint8)
    dab[10:15, 10:18, 4] = 2
    reply = submit(dab, "large")
    assert list(reply["annotated_slices"].values()) == ["none", "none", "4"]
    assert any("4: hardly anything is painted there" in warning for warning in reply["warnings"])

    server.run_job("/scoring/iou", "/scoring/")
    info = server.get("/datastore/label/info", params={"label": "a", "tag": "prediction"}).json()
    assert info["iou"]["tubule"] is not None


def test_the_reply_says_in_which_slices_unpainted_voxels_count() -> None:
    """Tubes along an axis are painted in two of three slices, so planes across the other axes are annotated too."""
    scheme = LabelScheme(("inside", "tubule"), "outside")
    x, y, z = np.indices((64, 64, 32))
    tubes = np.any([(x - a) ** 2 + (y - b) ** 2 <= 9 for a, b in ((20, 20), (40, 30), (30, 50))], axis=0)

    def reply(annotation: np.ndarray) -> dict[str, object]:
        info = {
            "statistics": annotation_statistics(annotation.astype(np.uint8), scheme),
            "slice_names": SliceNames().to_json(),
        }
        info |= {"warnings": [], "earlier": None, "version": 1}
        return submission_reply("a", info, scheme, "background", {"inside", "outside"}, None)

    found = reply(tubes & (z % 3 > 0))
    slices, planes = found["annotated_slices"], ", ".join(str(i) for i in range(32) if i % 3)
    assert isinstance(slices, dict)
    assert [text == "none" for text in slices.values()] == [False, False, False]
    assert f"count as outside in these slices: axis 2: {planes}. In the other slices they are ignored" in str(
        found["unpainted"]
    )
    assert not any("no outside is painted" in warning for warning in found["warnings"])  # type: ignore[attr-defined]

    box = np.zeros((64, 64, 32), bool)
    box[8:, 8:, 4:] = True
    found = reply(box)
    assert "in these slices are ignored" in str(found["unpainted"])
    assert any("no outside is painted" in warning for warning in found["warnings"])  # type: ignore[attr-defined]
