"""What the tests at 3D Slicer share. Each module of them has the fixtures ``studies`` and ``server``."""

import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from annotator import Annotator
from serving import Server


@pytest.fixture
def open_slicer(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Annotator]]:
    """Start sessions in 3D Slicer, connected to the server; they end with the test."""
    opened: list[Annotator] = []
    uncaught: list[str] = []
    # Errors in what the scene calls get no further than this.
    monkeypatch.setattr(sys, "excepthook", lambda *error: uncaught.append("".join(traceback.format_exception(*error))))

    def start(name: str = "annotator", **settings: object) -> Annotator:
        opened.append(Annotator(server.url, tmp_path / f"slicer {len(opened)}", name, **settings))
        opened[-1].connect()
        return opened[-1]

    yield start
    for annotator in opened:
        annotator.close()
    assert not uncaught, "\n".join(uncaught)


@pytest.fixture
def serve(server: Server, studies: Path) -> Iterator[Callable[..., None]]:
    """Have the server offer images, none but these; with the test they are gone, and all that was stored of them.

    So every test has a server of its own, as it were, without waiting for one to start.
    """

    def wait_for(images: set[str]) -> None:
        end = time.monotonic() + 20
        while (offered := set(server.client.datastore()["objects"])) != images:
            assert time.monotonic() < end, f"the server offers {offered}, not {images}"
            time.sleep(0.05)

    def offer(*files: Path) -> None:
        for file in files:
            file.rename(studies / file.name)
        wait_for({re.sub(r"_\d{4}$", "", file.name.partition(".")[0]) for file in files})

    yield offer
    for file in studies.glob("*.n*"):
        file.unlink()
    # Labels last: the server makes good what is missing of an image that it still has.
    wait_for(set())
    for file in studies.glob("labels/*/*"):
        file.unlink()
