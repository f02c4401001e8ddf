"""Faulty requests of clients: a real server refuses them and changes nothing."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import requests

from serving import NAMED, PATIENCE, SPACING, Server, as_slicer_sends, paint, scaled, write_image, write_label

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def annotated(server: Server, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The images a and b are annotated."""
    file = write_label(tmp_path_factory.mktemp("labels") / "label.nii.gz", paint())
    for image in ("a", "b"):
        server.put_label(image, file, NAMED).raise_for_status()


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("case", "status", "words"),
    [
        ("unknown image", 404, "'nobody'"),
        ("other shape", 400, "20, 18, 11"),
        ("other place", 400, "grid"),
        ("not whole", 400, "whole number"),
        ("empty", 400, "no paint"),
        ("unknown segment", 400, "'nucleus'"),
        ("truncated", 400, "damaged"),
        ("tag original", 400, "'original'"),
        ("tag version_1", 400, "'version_1'"),
        ("tag prediction", 400, "'prediction'"),
        ("of a 2-D image", 400, "flat.nii.gz"),
    ],
)
def test_bad_labels(server: Server, tmp_path: Path, case: str, status: int, words: str) -> None:
    label, params = as_slicer_sends(paint())
    affine = scaled(*SPACING)
    image, tag = "a", case.removeprefix("tag ") if case.startswith("tag ") else ""
    if case == "unknown image":
        image = "nobody"
    elif case == "of a 2-D image":
        image = "flat"
    elif case == "other shape":
        label = label[:, :, 1:]
    elif case == "other place":
        affine[2, 3] += 2
    elif case == "empty":
        label[:] = 0
    elif case == "unknown segment":
        params["label_info"][3]["name"] = "nucleus"
    file = write_label(tmp_path / "label.nii.gz", label + np.float32(0.25) if case == "not whole" else label, affine)
    if case == "truncated":
        file.write_bytes(file.read_bytes()[:100])
    reply = server.put_label(image, file, params, tag)
    assert reply.status_code == status
    assert words in reply.json()["detail"]


@pytest.mark.usefixtures("unchanged")
def test_bad_uploads_of_images(server: Server, served: Path, tmp_path: Path) -> None:
    for name, words in (("infinite", "is infinite"), ("flat", "2-D"), ("truncated", "damaged")):
        reply = server.put_image("new", shutil.copy(served / f"{name}.nii.gz", tmp_path / "new.nii.gz"))
        assert reply.status_code == 400
        assert words in reply.json()["detail"]
        assert "'new'" in reply.json()["detail"]
    assert server.put_image("a", write_image(tmp_path / "a.nii.gz", seed=5)).status_code == 400
    assert server.put_image("../a", write_image(tmp_path / "a.nii.gz", seed=5)).status_code == 400


@pytest.mark.usefixtures("unchanged")
def test_unknown_names_are_not_found(server: Server) -> None:
    url = server.url
    for reply in (
        requests.post(f"{url}/activelearning/best", json={}, timeout=PATIENCE),
        requests.post(f"{url}/infer/other", params={"image": "a"}, timeout=PATIENCE),
        requests.post(f"{url}/train/other", json={}, timeout=PATIENCE),
        requests.post(f"{url}/scoring/dice", json={}, timeout=PATIENCE),
        requests.post(f"{url}/batch/infer/other", json={}, timeout=PATIENCE),
        server.get("/datastore/label", params={"label": "a", "tag": "version_9"}),
        server.get("/datastore/image", params={"image": "nobody"}),
        server.infer("nobody"),
    ):
        assert reply.status_code == 404, reply.text


@pytest.mark.usefixtures("unchanged")
def test_bad_training_options(server: Server) -> None:
    for options in ({"max_epochs": "many"}, {"start": "again"}, {"max_minutes": [-1]}):
        reply = requests.post(f"{server.url}/train/sparse_unet3d", json=options, timeout=PATIENCE)
        assert reply.status_code == 400
        assert next(iter(options)) in reply.json()["detail"]
    assert requests.get(f"{server.url}/train/", timeout=PATIENCE).status_code == 404
