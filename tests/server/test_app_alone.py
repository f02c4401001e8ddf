"""The app's folder, copied to another computer without the rest of the project."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from project import APP
from serving import Server


@pytest.mark.slow
def test_the_app_works_without_the_project(studies: Path, tmp_path: Path) -> None:
    app = shutil.copytree(APP, tmp_path / "elsewhere" / APP.name, ignore=shutil.ignore_patterns("__pycache__"))
    server = Server(studies, tmp_path, app=app)
    try:
        assert server.wait().next_sample("first").json()["id"] == "a"
    finally:
        server.stop()
    said = subprocess.run(
        [sys.executable, app, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    for command in ("samples", "demo", "annotations"):
        assert command in said
    # All modules of this software that the copy imports come from the copy.
    code = "import pkgutil, importlib, sys, lib\n" + (
        "for each in pkgutil.walk_packages(lib.__path__, 'lib.'): importlib.import_module(each.name)\n"
        "print({name for name in sys.modules if name.partition('.')[0] in ('benchmarks', 'experiments', 'tests')})"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=app, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
