"""The web application with the real app and datastore behind it, in this process."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from lib.core.labels import LabelScheme
from lib.server.web.serving import web_application
from lib.server.web.users import Users
from main import SparseUNet3D
from project import APP
from serving import NAMED, paint, publish, write_image, write_label

LARGEST_UPLOAD = 2_000_000


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images a and b, and a model."""
    folder = tmp_path_factory.mktemp("web") / "studies"
    folder.mkdir()
    write_image(folder / "a.nii.gz", seed=1)
    write_image(folder / "b.nii.gz", seed=2)
    publish(folder / "models", LabelScheme(("inside", "tubule"), "outside"))
    return folder


@pytest.fixture(scope="module")
def app(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> SparseUNet3D:
    """The app, with a annotated."""
    app = SparseUNet3D(str(APP), str(studies), {})
    app.datastore().serve(watch=False)
    label = write_label(tmp_path_factory.mktemp("labels") / "label.nii.gz", paint())
    app.datastore().save_label("a", str(label), "final", NAMED)
    return app


@pytest.fixture(scope="module")
def client(app: SparseUNet3D, studies: Path) -> TestClient:
    """A client on this computer; the server lets everybody in."""
    web = web_application(app, Users(studies), hosts=["lab.example.org"], largest_upload=LARGEST_UPLOAD)
    return TestClient(web, base_url="http://127.0.0.1:8000", raise_server_exceptions=False)
