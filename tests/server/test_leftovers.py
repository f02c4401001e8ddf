"""What a server leaves in the folders for temporary files, for labels and for models."""

import signal
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from serving import NAMED, Server, paint, parts, publish, wait_until, write_label
from stores import SCHEME

pytestmark = pytest.mark.slow


def files_in(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def test_nothing_is_left(studies: Path, tmp_path: Path, start_server: Callable[..., Server]) -> None:
    publish(studies / "models", SCHEME)
    server = start_server(studies).wait()
    label = write_label(tmp_path / "label.nii.gz", paint())
    assert server.put_label("a", label, NAMED).status_code == 200
    empty = write_label(tmp_path / "empty.nii.gz", np.zeros_like(paint()))
    assert server.put_label("a", empty, NAMED).status_code == 400
    empty.write_bytes(b"no image")
    assert server.put_image("new", empty).status_code == 400
    parts(server.infer("a"), tmp_path)
    assert len(server.get("/datastore/dataset").content) > 1000
    # MONAI Label itself leaves the configuration of its log, before the app begins.
    (own,) = server.tmp.glob("sparse_unet3d-*")
    wait_until(lambda: not files_in(own))

    # It is killed in the middle of a download, an upload and a training.
    process = own.name.removeprefix("sparse_unet3d-").rpartition("-")[0]
    for name in ("dataset-x.zip", "upload-x/label.nii.gz", "prediction-x.nii.gz"):
        (own / name).parent.mkdir(exist_ok=True)
        (own / name).write_bytes(b"x")
    left = [
        studies / folder / f".writing-{process}-0{ending}"
        for folder, ending in (("", ".nii.gz"), ("labels", ".nii.gz"), ("labels/final", ".json"), ("models", ".pt"))
    ]
    for path in left:
        path.write_bytes(b"x")
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    living = studies / "labels/final/.writing-00000000-1-1-0.nii.gz"
    living.write_bytes(b"of a process on another computer")

    again = Server(studies, server.tmp.parent).wait()
    assert not own.exists()
    assert not [path for path in left if path.exists()]
    assert living.exists()
    assert (nibabel.load(studies / "labels/final/a.nii.gz").get_fdata() == paint()).all()
    again.stop()
    for folder in server.tmp.glob("sparse_unet3d-*"):
        assert not files_in(folder)
