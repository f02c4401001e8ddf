"""A request that has to wait doesn't hold up the others."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
import uvicorn

from lib.server.store.datastore import AnnotationStore
from lib.server.web.serving import web_application
from lib.server.web.users import Users
from main import SparseUNet3D
from serving import NAMED, PATIENCE, Server, paint, wait_until, write_label
from stores import SCHEME

HELD_FOR = 2.0
"""Seconds for which somebody else holds the datastore's lock."""

LONGEST_BLOCK = HELD_FOR / 2
"""Seconds for which a busy machine may hold up all requests; waiting for the lock would hold them up for longer."""


@pytest.mark.slow
def test_others_are_answered_while_a_submission_waits_for_the_lock(
    studies: Path, tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    server = start_server(studies).wait()
    label = write_label(tmp_path / "label.nii.gz", paint())
    status: list[int] = []
    submission = threading.Thread(target=lambda: status.append(server.put_label("b", label, NAMED).status_code))
    store = AnnotationStore(str(studies), SCHEME)
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


class Heart:
    """An event loop in a thread of its own, and how late it was each time that it should have done something."""

    BEAT = 0.01

    def __init__(self, serve: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.late: list[tuple[float, float]] = []
        self._serve = serve
        self.thread = threading.Thread(target=lambda: asyncio.run(self._live()))

    async def _live(self) -> None:
        beating = asyncio.create_task(self._beat())
        await self._serve()
        beating.cancel()

    async def _beat(self) -> None:
        while True:
            expected = time.monotonic() + self.BEAT
            await asyncio.sleep(self.BEAT)
            self.late.append((expected, time.monotonic() - expected))

    def latest(self, begin: float, end: float) -> float:
        """Return how late it was at most, in seconds, in some time."""
        return max((late for at, late in self.late if at < end and at + late > begin), default=0.0)


def test_nothing_blocks_the_event_loop(app: SparseUNet3D, studies: Path, tmp_path: Path) -> None:
    """Nor does the machine, or the interpreter's lock: what holds up a loop that does nothing, too, doesn't count."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    web = web_application(app, Users(studies), largest_upload=10**8)
    server = uvicorn.Server(uvicorn.Config(web, port=port, log_level="warning", lifespan="off"))
    over = threading.Event()

    async def wait_until_over() -> None:
        while not over.is_set():
            await asyncio.sleep(0.05)

    heart, control = Heart(server.serve), Heart(wait_until_over)
    heart.thread.start()
    control.thread.start()
    url = f"http://127.0.0.1:{port}"
    label = write_label(tmp_path / "label.nii.gz", paint())

    def submit() -> None:
        with label.open("rb") as file:
            reply = requests.put(
                f"{url}/datastore/label",
                params={"image": "a"},
                data={"params": json.dumps(NAMED)},
                files={"label": (label.name, file)},
                timeout=PATIENCE,
            )
        assert reply.status_code == 200

    def segment() -> None:
        reply = requests.post(f"{url}/infer/sparse_unet3d?image=a", data={"params": "{}"}, timeout=PATIENCE)
        assert reply.status_code == 200

    try:
        wait_until(lambda: server.started)
        begin = time.monotonic()
        other = AnnotationStore(str(studies), SCHEME)
        with ThreadPoolExecutor(4) as clients:
            with other._changing():
                doing = [clients.submit(work) for work in (submit, segment, submit, submit)]
                time.sleep(HELD_FOR)
                assert not doing[0].done()
            for done in doing:
                done.result()
    finally:
        server.should_exit = True
        over.set()
        heart.thread.join()
        control.thread.join()
    late = [(at, late) for at, late in heart.late if at > begin and late > LONGEST_BLOCK]
    assert len(heart.late) > 1.0 / Heart.BEAT
    assert not [late for at, late in late if control.latest(at - late, at + 2 * late) < late / 2]
