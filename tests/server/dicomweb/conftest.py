"""Fixtures of the tests with an archive."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lib.server.dicomweb import exchange
from lib.server.dicomweb.archive import Archive
from lib.server.dicomweb.exchanging_store import ExchangingStore
from orthanc import Orthanc
from serving import SHAPE
from stores import SCHEME

LARGEST = 1 << 28


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    """An empty archive."""
    archive = Orthanc(tmp_path / "orthanc").start()
    yield archive
    archive.stop()


@pytest.fixture
def image() -> NDArray[np.int16]:
    """Voxels (X, Y, Z) that differ from each other."""
    return np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)


@pytest.fixture
def open_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ExchangingStore]]:
    """Open a project folder of an archive, and serve it unless told otherwise. It is asked for news all the time."""
    for wait in ("EVERY", "FIRST_WAIT", "LONGEST_WAIT"):
        monkeypatch.setattr(exchange, wait, 0.2)
    opened: list[ExchangingStore] = []

    def start(address: str, name: str = "project", serve: bool = True) -> ExchangingStore:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        archive = Archive(address, LARGEST)
        # The exchange of a store that was opened before ends, as that of a server that was killed.
        for other in opened:
            other.close()
        store = ExchangingStore(folder, archive, SCHEME, "unlabelled", None, LARGEST)
        if serve:
            store.serve(watch=False)
        opened.append(store)
        return store

    yield start
    for store in opened:
        store.close()
