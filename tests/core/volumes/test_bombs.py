"""Small files that declare, or expand to, more than the memory holds: refused at once, whatever ITK would do."""

import json
import subprocess
import sys
from typing import Any

import pytest

from bombs import BOMBS
from project import APP

LIMIT = 4_000_000_000
"""Bytes that reading a file may take."""

READ = """
import json, resource, sys
from pathlib import Path
from lib.core.errors import InputError
from lib.core.volumes.reading import read_label_map
from lib.core.volumes.slicer_segmentation import is_slicer_segmentation, read_slicer_segmentation

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

for path in sorted(Path(sys.argv[1]).iterdir()):
    before = peak()
    try:
        (read_slicer_segmentation if is_slicer_segmentation(path) else read_label_map)(path, int(sys.argv[2]))
        told = "nothing"
    except InputError as error:
        told = str(error)
    print(json.dumps([path.name, {"told": told, "bytes": peak() - before}]))
"""
"""Reads all files of a folder in one process, and says what it says of each, and how much its peak memory grew."""


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("bombs")
    for name, make in BOMBS.items():
        (folder / name).write_bytes(make())
    command = [sys.executable, "-c", READ, str(folder), str(LIMIT)]
    lines = subprocess.run(command, cwd=APP, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    return dict(map(json.loads, lines))


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_little_memory(read: dict[str, dict[str, Any]], name: str) -> None:
    assert name in read[name]["told"]
    assert "root:" not in read[name]["told"]
    assert read[name]["bytes"] < 100_000_000
