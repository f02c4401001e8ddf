"""A real server and a real archive: the login, the choice of series, and an archive that is gone for a while."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lib.core.volumes.reading import read_geometry
from orthanc import Orthanc, needs_orthanc
from serving import PATIENCE, Server, as_slicer_sends, paint, stored, write_label

pytestmark = [needs_orthanc, pytest.mark.slow]

A, B = "1.2.3.1", "1.2.3.2"


@pytest.fixture
def archive(tmp_path: Path, image: NDArray[np.int16], monkeypatch: pytest.MonkeyPatch) -> Iterator[Orthanc]:
    """An archive with a login, and three series, of which the environment chooses two."""
    orthanc = Orthanc(tmp_path / "orthanc", ("ann", "secret")).start()
    for series, description in ((A, "kidneys"), (B, "kidneys"), ("1.2.4.1", "livers")):
        study = series.rpartition(".")[0]
        # A name without a caret is one that libraries warn of.
        tags = {"StudyInstanceUID": study, "StudyDescription": description, "PatientName": "Doe"}
        orthanc.add_series(tmp_path / series, image, series, **tags)
    monkeypatch.setenv("MONAI_LABEL_DICOMWEB_USERNAME", "ann")
    monkeypatch.setenv("MONAI_LABEL_DICOMWEB_PASSWORD", "secret")
    monkeypatch.setenv("MONAI_LABEL_DICOMWEB_SEARCH_FILTER", '{"StudyDescription": "kidneys", "Modality": "CT"}')
    yield orthanc
    orthanc.stop()


def test_an_archive_that_is_gone_for_a_while(
    archive: Orthanc, tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    project = tmp_path / "project"

    logs = []

    def start() -> Server:
        started = start_server(project, archive=archive.address, width="2").wait()
        logs.append(started.log)
        return started

    def submit(image: str) -> list[str]:
        label, params = as_slicer_sends(paint())
        affine = read_geometry(project / image).affine
        reply = server.put_label(image, write_label(tmp_path / "label.nii.gz", label, affine), params)
        assert reply.status_code == 200, reply.text
        return [text for text in reply.json()["warnings"] if "archive" in text]

    server = start()
    assert list(server.client.datastore()["objects"]) == [A, B]
    assert server.client.next_sample("sparse", {})["id"] == A
    assert submit(A) == []
    assert len(archive.segmentations()) == 1

    # It is gone, and the server is killed and started again.
    archive.stop()
    server.process.send_signal(signal.SIGKILL)
    server.process.wait(timeout=PATIENCE)
    server = start()
    assert f"images come from {archive.address}" in server.client.info()["description"]
    assert "can't be reached" in server.client.info()["description"]
    (warning,) = submit(A)
    assert warning.startswith("version 2 is stored here, but not in the archive yet")
    assert (stored(project, "version_2", A) == paint()).all()
    reply = server.get("/datastore/image", params={"image": B})
    assert (reply.status_code, "can't be reached" in reply.json()["detail"]) == (503, True)
    assert server.client.next_sample("sparse", {})["id"] == A

    # What was submitted meanwhile is sent after another kill, too.
    server.process.send_signal(signal.SIGKILL)
    server.process.wait(timeout=PATIENCE)
    archive.start()
    server = start()
    server.wait_until(lambda: len(archive.segmentations()) == 2)
    server.wait_until(lambda: "doesn't have" not in server.client.info()["description"])
    assert server.get("/datastore/image", params={"image": B}).status_code == 200
    # Batch inference, training and scoring fetch what they want in their own processes.
    server.run_job("/train/sparse_unet3d", "/train/", max_epochs=1)
    done = server.run_job("/batch/infer/sparse_unet3d?images=all", "/batch/infer/")
    assert done["result"] == {"segmented": [A, B], "up_to_date": [], "failed": {}}
    assert not any(word in log.read_text() for log in logs for word in ("secret", "Doe"))


def test_an_address_that_is_none(tmp_path: Path, start_server: Callable[..., Server]) -> None:
    server = start_server(tmp_path / "project", archive="http://ann:secret@127.0.0.1/dicom-web")
    assert server.process.wait(timeout=PATIENCE) != 0
    said = server.log.read_text()
    assert "The server cannot start. --studies http://…@127.0.0.1: everybody on this computer can read" in said
    assert not (tmp_path / "project").exists()
