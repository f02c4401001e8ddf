"""Images in one file for each channel, by nnU-Net's naming, over a real server; the tests build on each other."""

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel
import numpy as np
import pytest
import requests

from serving import PATIENCE, SHAPE, Server, as_slicer_sends, paint, scaled, snapshot, stored, write_image, write_label

pytestmark = pytest.mark.slow

AFFINE = scaled(0.5, 0.5, 1.25)
FIRST, SECOND = "case_0000.nii.gz", "case_0001.nii.gz"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of two channels each, and a copy of the first image in one file."""
    folder = tmp_path_factory.mktemp("studies")
    for number, name in enumerate(("case_0000", "case_0001", "other_0000", "other_0001")):
        write_image(folder / f"{name}.nii.gz", seed=number)
    channels = [np.asarray(nibabel.load(folder / name).dataobj) for name in (FIRST, SECOND)]
    nibabel.save(nibabel.Nifti1Image(np.stack(channels, axis=3), AFFINE), folder / "together.nii.gz")
    return folder


@pytest.fixture(scope="module")
def server(served: Path, start_server: Callable[..., Server]) -> Server:
    return start_server(served, width="2").wait()


def images(server: Server) -> list[str]:
    return sorted(server.get("/datastore/", params={"output": "all"}).json()["objects"])


def next_sample(server: Server) -> requests.Response:
    return requests.post(f"{server.url}/activelearning/sparse", json={}, timeout=PATIENCE)


@contextmanager
def without(file: Path) -> Iterator[None]:
    """Take a file away for a while."""
    aside = file.rename(file.parent / "models" / file.name)
    try:
        yield
    finally:
        aside.rename(file)


def test_channels_are_one_sample_and_the_first_is_shown(server: Server, served: Path) -> None:
    assert images(server) == ["case", "other", "together"]
    sample = next_sample(server).json()
    assert (sample["id"], sample["name"], sample["path"]) == ("case", FIRST, str(served / FIRST))
    reply = server.get("/datastore/image", params={"image": "case"})
    assert reply.content == (served / FIRST).read_bytes()
    assert FIRST in reply.headers["content-disposition"]


def test_paint_on_the_first_channel_is_stored(server: Server, served: Path, tmp_path: Path) -> None:
    label, params = as_slicer_sends(paint())
    reply = server.put_label("case", write_label(tmp_path / "label.nii.gz", label, AFFINE), params)
    assert reply.json()["version"] == 1
    assert (stored(served, "final", "case") == paint()).all()
    assert np.allclose(nibabel.load(served / "labels/final/case.nii.gz").affine, AFFINE)
    assert next_sample(server).json()["id"] == "other"


def test_all_channels_are_trained_on_and_used(server: Server, served: Path, tmp_path: Path) -> None:
    server.client.train_start("sparse_unet3d", {"max_epochs": 1})
    server.wait_for_training(lambda _, status: status == "DONE")
    assert json.loads((served / "models/plan.json").read_text())["channels"] == 2
    arrays = {}
    for image in ("case", "together", "other"):
        file, _ = server.client.infer("sparse_unet3d", image, {"result_extension": ".nii.gz"})
        arrays[image] = np.asarray(nibabel.load(file).dataobj)
        assert arrays[image].shape == SHAPE
    assert (arrays["case"] == arrays["together"]).all()
    assert (stored(served, "prediction", "case") == arrays["case"]).all()


def test_the_archive_has_all_channels(server: Server, served: Path) -> None:
    archive = zipfile.ZipFile(io.BytesIO(server.get("/datastore/dataset").content))
    assert {name: archive.read(name) for name in archive.namelist() if name != "metadata.json"} == {
        f"image/{FIRST}": (served / FIRST).read_bytes(),
        f"image/{SECOND}": (served / SECOND).read_bytes(),
        "label/case.nii.gz": (served / "labels/final/case.nii.gz").read_bytes(),
    }
    assert "case" in json.loads(archive.read("metadata.json"))["objects"]


@pytest.mark.parametrize("missing", [FIRST, SECOND])
def test_a_missing_channel_is_reported(server: Server, served: Path, tmp_path: Path, missing: str) -> None:
    label, params = as_slicer_sends(paint())
    file = write_label(tmp_path / "label.nii.gz", label, AFFINE)
    before = snapshot(served / "labels/final")
    with without(served / missing):
        for reply in (
            server.infer("case"),
            server.put_label("case", file, params),
            requests.post(f"{server.url}/train/sparse_unet3d", json={"max_epochs": 1}, timeout=PATIENCE),
            server.get("/datastore/dataset"),
        ):
            assert reply.status_code == 400, reply.text
            assert f"{served / missing}: no such file" in reply.json()["detail"]
        assert images(server) == ["case", "other", "together"]
        assert server.infer("other").status_code == 200
    assert server.infer("case").status_code == 200
    assert snapshot(served / "labels/final") == before


def test_next_sample_reports_a_broken_image_and_then_goes_on(server: Server, served: Path) -> None:
    server.forget_offers("case", "other", "together")
    assert [next_sample(server).json()["id"] for _ in range(2)] == ["other", "together"]
    server.forget_offers("other", "together")
    content = (served / "other_0001.nii.gz").read_bytes()
    write_image(served / "other_0001.nii.gz", affine=scaled(0.5, 0.5, 1.3))
    failed = next_sample(server)
    assert failed.status_code == 400
    assert f"{served / 'other_0001.nii.gz'}: the channel" in failed.json()["detail"]
    assert {next_sample(server).json()["id"] for _ in range(3)} == {"together", "case"}
    # Repaired, it is offered again.
    (served / "other_0001.nii.gz").write_bytes(content)
    server.forget_offers("case", "other", "together")
    assert next_sample(server).json()["id"] == "other"


def test_files_that_claim_the_same_image_are_reported(server: Server, served: Path) -> None:
    write_image(served / "other.nii.gz")
    reply = server.infer("other")
    assert reply.status_code == 400
    assert all(str(served / name) in reply.json()["detail"] for name in ("other.nii.gz", "other_0000.nii.gz"))
    (served / "other.nii.gz").unlink()
    assert server.infer("other").status_code == 200


@pytest.mark.parametrize("name", ["third_0000", "other_0002", "third_0001"])
def test_a_single_channel_cannot_be_uploaded(server: Server, served: Path, tmp_path: Path, name: str) -> None:
    before = snapshot(served)
    reply = server.put_image(name, write_image(tmp_path / f"{name}.nii.gz"))
    assert reply.status_code == 400
    assert all(word in reply.json()["detail"] for word in (repr(name), "choose another name"))
    assert snapshot(served) == before


def test_an_image_with_all_channels_in_one_file_can_be_uploaded(server: Server, served: Path, tmp_path: Path) -> None:
    # An upload equal to the stored image is accepted, although that has a file for each channel; others aren't.
    assert server.put_image("case", served / "together.nii.gz").json() == {"image": "case"}
    assert server.put_image("case", served / "other_0000.nii.gz").status_code == 400
    reply = server.put_image("fourth", write_image(tmp_path / "fourth.nii.gz", (*SHAPE, 2)))
    assert reply.json() == {"image": "fourth"}
    assert "fourth" in images(server)


def test_files_added_while_the_server_runs(server: Server, served: Path) -> None:
    write_image(served / "new_0000.nii.gz")
    server.wait_until(lambda: "new" in images(server))
    assert "new_0001.nii.gz: no such file" in server.infer("new").json()["detail"]
    write_image(served / "new_0001.nii.gz")
    assert server.infer("new").status_code == 200
    assert not [image for image in images(server) if image.endswith(("_0000", "_0001"))]
