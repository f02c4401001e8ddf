import json
from pathlib import Path

import pytest

from lib.core.files import replacing, write_json


def test_file_appears_whole_and_nothing_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "volume.nii.gz"
    with replacing(path) as beside:
        assert beside.parent == path.parent
        assert beside.name.endswith(".nii.gz")
        beside.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["volume.nii.gz"]


def test_failure_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    write_json(path, {"old": 1})

    def fail() -> None:
        with replacing(path) as beside:
            beside.write_text("half of it")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["index.json"]
