from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving import Server, write_image


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A folder with the images a and b."""
    folder = tmp_path / "studies"
    folder.mkdir()
    write_image(folder / "a.nii.gz", seed=1)
    write_image(folder / "b.nii.gz", seed=2)
    return folder


@pytest.fixture(scope="module")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Start servers that end with the module."""
    started: list[Server] = []

    def start(studies: Path, **conf: str) -> Server:
        started.append(Server(studies, tmp_path_factory.mktemp("server"), **conf))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.stop()
