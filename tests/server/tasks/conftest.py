"""A server with images of every kind."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from segmentations import write_numbered
from serving import SHAPE, Server, snapshot, write_image, write_label


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images of every kind, including some that can't be segmented."""
    folder = tmp_path_factory.mktemp("studies")
    write_image(folder / "a.nii.gz", seed=1)
    write_image(folder / "b.nii.gz", seed=2)
    write_image(folder / "two channels.nii.gz", (*SHAPE, 2))
    write_image(folder / "misread.nii.gz", (*SHAPE, 2), np.diag([0.5, 0.5, 1.25, 1.0]))
    write_numbered(folder / "numbered.nii.gz", np.diag([0.5, 0.5, 1.25, 1.0]), (*SHAPE, 2))
    write_label(folder / "flat.nii.gz", np.ones((20, 20), np.uint8))
    array = np.ones(SHAPE, np.float32)
    array[1, 2, 3] = np.inf
    write_label(folder / "infinite.nii.gz", array)
    (folder / "truncated.nii.gz").write_bytes((folder / "a.nii.gz").read_bytes()[:800])
    return folder


@pytest.fixture(scope="module")
def server(served: Path, start_server: Callable[..., Server]) -> Server:
    return start_server(served).wait()


@pytest.fixture
def unchanged(server: Server, served: Path) -> object:
    """Check that the test changes no stored file, and that the server answers afterwards."""
    before = snapshot(served)
    yield
    assert snapshot(served) == before
    assert server.get("/info/").status_code == 200
