"""Files that crash, hang or fill careless readers, sent to a real server as label, as image, and to be segmented."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import requests

from bombs import BOMBS
from lib.core.labels import LabelScheme
from serving import NAMED, PATIENCE, Server, paint, publish, snapshot, stored, write_image, write_label

pytestmark = pytest.mark.slow

UPLOAD = 0.2
"""Gigabytes that an uploaded file may take."""

BESIDES = 150_000_000
"""Bytes that the server takes more while it works, whatever it is sent."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("bombs")
    studies = folder / "studies"
    studies.mkdir()
    write_image(studies / "a.nii.gz")
    publish(studies / "models", LabelScheme(("inside", "tubule"), "outside"))
    server = Server(studies, folder, upload=str(UPLOAD)).wait()
    yield server
    server.stop()


def memory(server: Server) -> dict[int, int]:
    """The memory of the server and of each of its processes, in bytes."""
    process, found = psutil.Process(server.process.pid), {}
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.Error):
            found[one.pid] = int(one.memory_info().rss)
    return found


@pytest.mark.parametrize("name", BOMBS)
def test_the_server_refuses_bombs_and_goes_on(server: Server, tmp_path: Path, name: str) -> None:
    file, before, files = tmp_path / name, memory(server), snapshot(server.studies)
    file.write_bytes(BOMBS[name]())
    replies = [server.put_label("a", file, NAMED), server.put_image("new", file)]
    # The voxels of these are fine, and can be segmented.
    if b"Segment0_" not in file.read_bytes()[:1000]:
        with file.open("rb") as content:
            url, files_sent = f"{server.url}/infer/sparse_unet3d", {"file": (name, content)}
            replies.append(requests.post(url, data={"params": "{}"}, files=files_sent, timeout=PATIENCE))
    for reply in replies:
        assert reply.status_code in (400, 413), reply.text
        assert json.loads(reply.text)["detail"]
        assert "root:" not in reply.text
    assert server.get("/info/").ok
    assert snapshot(server.studies) == files
    assert not list(server.tmp.glob("upload-*"))
    for process, bytes_now in memory(server).items():
        # A new process imports what it needs first.
        assert bytes_now < before.get(process, BESIDES) + BESIDES


def test_paint_is_stored_afterwards(server: Server, tmp_path: Path) -> None:
    label = write_label(tmp_path / "label.nii.gz", paint())
    server.put_label("a", label, NAMED).raise_for_status()
    assert (stored(server.studies, "final") == paint()).all()
    server.put_image("new", write_image(tmp_path / "new.nii.gz", seed=3)).raise_for_status()
