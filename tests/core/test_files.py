import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from lib.core.errors import InputError
from lib.core.files import new_folder, remove_abandoned, replacing, write_json
from project import APP


def test_a_written_file_is_complete_and_nothing_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "volume.nii.gz"
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["volume.nii.gz"]


def test_a_failure_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    write_json(path, {"old": 1})

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of it")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["index.json"]


def test_a_new_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "new"
    path.mkdir(parents=True)
    for fails in (True, False):
        with suppress(RuntimeError), new_folder(path) as beside:
            (beside / "inner").mkdir()
            (beside / "inner/file").write_text("content")
            assert not any(path.iterdir())
            if fails:
                raise RuntimeError("stopped")
        assert list(path.parent.iterdir()) == [path]
        assert [p.name for p in path.rglob("*")] == ([] if fails else ["inner", "file"])
    for taken in (path, path / "inner/file"):
        with pytest.raises(InputError, match="exists already"), new_folder(taken):
            pass


LEAVE = """
import os, sys
sys.path.insert(0, sys.argv[1])
from lib.core.files import replacing
with replacing(sys.argv[2]) as beside:
    beside.write_bytes(b"part of it")
    os._exit(9)
"""


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", LEAVE, APP, tmp_path / "volume.nii.gz"], check=False)
    (left,) = tmp_path.iterdir()
    with replacing(tmp_path / "other.json") as beside:
        beside.write_text("part of it")
        (tmp_path / ".writing-unknown.json").write_text("of an earlier version, just now")
        old = tmp_path / ".writing-old.json"
        old.write_text("of an earlier version, long ago")
        os.utime(old, (1e9, 1e9))
        assert left.exists()
        remove_abandoned(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([beside.name, ".writing-unknown.json"])
    assert (tmp_path / "other.json").exists()
