"""Fixtures of the tests with 3D Slicer."""

import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from annotator import Annotator
from lib.core.labels import LabelScheme
from lib.core.volumes.formats import endings
from serving import Server, publish


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="session")
def server(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests in this folder; see ``serve``."""
    server = Server(studies, tmp_path_factory.mktemp("server"), width="2").wait()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def models(studies: Path) -> Path:
    """Remove the folder of models; return its path."""
    folder = studies / "models"
    shutil.rmtree(folder, ignore_errors=True)
    return folder


@pytest.fixture
def published(models: Path) -> None:
    """A model that finds every class in the image of seed 1."""
    torch.manual_seed(3)
    publish(models, LabelScheme(("inside", "tubule"), "outside"))


@pytest.fixture
def open_slicer(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Annotator]]:
    """Start sessions in 3D Slicer, connected to the server; they end with the test."""
    opened: list[Annotator] = []
    uncaught: list[str] = []
    # Errors in callbacks of the scene reach only this hook.
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
    """Make the server offer only the given images; after the test, remove them and everything stored about them.

    In effect every test has its own server, without waiting for one to start.
    """

    def wait_for(images: set[str]) -> None:
        server.wait_until(lambda: set(server.client.datastore()["objects"]) == images)

    def offer(*files: Path, images: set[str] | None = None) -> None:
        for file in files:
            file.rename(studies / file.name)
        wait_for(images or {re.sub(r"_\d{4}$", "", file.name.partition(".")[0]) for file in files})

    yield offer
    for ending in (*endings(), ".raw"):
        for file in filter(Path.is_file, studies.glob(f"*{ending}")):
            file.unlink()
    for folder in (*studies.glob("*.zarr"), *studies.glob("image")):
        shutil.rmtree(folder)
    # Labels come last, because the server restores missing labels of an image that it still has.
    wait_for(set())
    for file in studies.glob("labels/*/*"):
        file.unlink()
