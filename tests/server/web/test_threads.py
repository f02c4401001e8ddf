"""A request that has to wait doesn't hold up the others."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lib.core.labels import LabelScheme
from lib.server.store.datastore import AnnotationStore
from serving import NAMED, PATIENCE, Server, paint, write_label


@pytest.mark.slow
def test_others_are_answered_while_a_submission_waits_for_the_lock(
    studies: Path, tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    server = start_server(studies).wait()
    label = write_label(tmp_path / "label.nii.gz", paint())
    status: list[int] = []
    submission = threading.Thread(target=lambda: status.append(server.put_label("b", label, NAMED).status_code))
    store = AnnotationStore(str(studies), LabelScheme(("inside", "tubule"), "outside"))
    with store._changing():
        submission.start()
        # The file arrives before the store is asked.
        server.wait_until(lambda: list(server.tmp.rglob("label.nii.gz")))
        for _ in range(10):
            assert server.get("/info/").status_code == 200
            assert server.get("/datastore/", params={"output": "all"}).status_code == 200
        assert submission.is_alive()
        assert status == []
    submission.join(PATIENCE)
    assert status == [200]
