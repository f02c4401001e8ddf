"""Fixtures and settings of all tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dense_volumes import write_balls
from lib.core.device.memory import keep_freed_memory, return_freed_memory
from project import APP
from serving import Server

# As in a training process; without this, tests that train take half as long again.
keep_freed_memory()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what belongs to benchmarks and experiments, which few changes touch."""
    for item in items:
        if item.path.parent.name in ("benchmarks", "experiments"):
            item.add_marker("slow")


@pytest.fixture(scope="module", autouse=True)
def freed_memory() -> Iterator[None]:
    """Return freed memory after each module: forks of a process with gigabytes are slow, and some tests fork often."""
    yield
    return_freed_memory()


@pytest.fixture(scope="module")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Start servers that end with the module."""
    started: list[Server] = []

    def start(studies: Path, **conf: str) -> Server:
        started.append(Server(studies, tmp_path_factory.mktemp("server"), APP, **conf))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture
def dense_studies(tmp_path: Path) -> Path:
    """A folder with images/ and labels/, see ``write_balls``."""
    folder = tmp_path / "studies"
    write_balls(folder)
    return folder
