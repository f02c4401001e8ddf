"""Archives that take an experiment to another machine and bring it back."""

import errno
import io
import json
import os
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from dense_volumes import write_balls
from lib.core.errors import InputError
from lib.experiments.travel import pack, unpack

WORK = Path("experiments/work/small")
TABLE = Path("experiments/results/small/table1.json")


def write(path: Path, text: str, changed: float | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if changed is not None:
        os.utime(path, (changed, changed))


def finish(project: Path, key: str, settings: int = 1, date: str = "2026-01-01", changed: float | None = None) -> Path:
    path = project / WORK / "runs" / f"{key}.json"
    write(path, json.dumps({"key": key, "settings": {"seed": settings}, "date": date, "by": project.name}), changed)
    return path


def begin(project: Path, key: str, settings: int = 1, changed: float | None = None) -> Path:
    folder = project / WORK / key
    write(folder / "settings.json", json.dumps({"seed": settings}), changed)
    for name in ("checkpoint.pt", "archive/model_0001.pt"):
        write(folder / name, project.name, changed)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def archive_of(path: Path, *entries: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
    return path


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return project(tmp_path / "here")


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return project(tmp_path / "there")


def project(folder: Path) -> Path:
    for name in ("apps/sparse_unet3d/model/model.pt", "apps/sparse_unet3d/lib/code.py", "LICENSE", str(TABLE)):
        write(folder / name, folder.name, 1000)
    return folder


@pytest.fixture
def back(tmp_path: Path) -> Path:
    return tmp_path / "back.tar.gz"


def take(here: Path, there: Path, back: Path) -> int:
    pack(there, back)
    taken = unpack(here, back)
    # Twice does no harm, and nothing is left behind.
    assert unpack(here, back) == 0
    assert not list(here.rglob(".*"))
    return taken


def test_software_and_runs_travel(here: Path, back: Path) -> None:
    finish(here, "a")
    begin(here, "b")
    write(here / WORK / ".lock", "")
    pack(here, back)
    with tarfile.open(back) as packed:
        names = {entry.name for entry in packed.getmembers() if entry.isfile()}
        commit = packed.extractfile("apps/sparse_unet3d/commit.txt").read().decode()  # type: ignore[union-attr]
    assert names == {
        "apps/sparse_unet3d/commit.txt",
        "apps/sparse_unet3d/lib/code.py",
        "experiments/results/small/table1.json",
        "experiments/work/small/b/archive/model_0001.pt",
        "experiments/work/small/b/checkpoint.pt",
        "experiments/work/small/b/settings.json",
        "experiments/work/small/runs/a.json",
    }
    assert commit


def test_volumes_travel_too(here: Path, back: Path, tmp_path: Path) -> None:
    balls, links = tmp_path / "balls", tmp_path / "links"
    write_balls(balls)
    (links / "images").mkdir(parents=True)
    for path in (balls / "images").iterdir():
        (links / "images" / path.name).symlink_to(path)
    (links / "labels").symlink_to(balls / "labels")
    for data in (balls, links):
        pack(here, back, data)
        with tarfile.open(back) as packed:
            for part in ("images", "labels"):
                paths = sorted((balls / part).iterdir())
                assert paths
                for path in paths:
                    content = packed.extractfile(f"data/{data.name}/{part}/{path.name}").read()  # type: ignore[union-attr]
                    assert content == path.read_bytes()
            assert all(entry.isfile() or entry.isdir() for entry in packed)


def test_volumes_that_are_not_there_are_refused(here: Path, back: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape("here/images: no such folder; give a folder with images and")):
        pack(here, back, here)
    write_balls(tmp_path / "balls")
    (tmp_path / "balls/images/gone.nii").symlink_to("nowhere.nii")
    with pytest.raises(InputError, match=r"balls/images/gone\.nii: not there, or a link to nothing"):
        pack(here, back, tmp_path / "balls")
    assert not back.exists()


def test_newer_results_come_back(here: Path, there: Path, back: Path) -> None:
    write(there / TABLE, "there", 2000)
    write(there / WORK / "kidney_1.npz", "there", 1000)
    write(here / WORK / "kidney_1.npz", "here", 2000)
    before = files(here)
    assert take(here, there, back) == 1
    assert files(here) == {**before, str(TABLE): b"there"}


def test_what_was_begun_of_a_run_that_comes_back_finished_is_removed(here: Path, there: Path, back: Path) -> None:
    kept, begun = finish(here, "a"), begin(here, "b")
    finish(there, "b")
    # Not a run, though it has the name of one.
    finish(there, "volumes")
    write(here / WORK / "volumes" / "runs" / "c.json", "{}")
    assert take(here, there, back) == 2
    assert json.loads((here / WORK / "runs" / "b.json").read_text())["by"] == "there"
    assert not begun.exists()
    assert kept.exists()
    assert (here / WORK / "volumes" / "runs" / "c.json").exists()


def test_a_begun_run_comes_back_as_a_whole_where_it_was_continued_there(here: Path, there: Path, back: Path) -> None:
    behind, ahead, done = begin(here, "a", 1, 1000), begin(here, "b", 1, 2000), finish(here, "c")
    gone = behind / "archive" / "model_0002.pt"
    write(gone, "here", 1500)
    for key in ("a", "b", "c"):
        begin(there, key, 1, 1000)
    write(there / WORK / "a" / "checkpoint.pt", "there", 2000)
    assert take(here, there, back) == 3
    assert (behind / "checkpoint.pt").read_text() == (behind / "archive/model_0001.pt").read_text() == "there"
    assert not gone.exists()
    assert (ahead / "checkpoint.pt").read_text() == "here"
    assert done.exists()
    assert not (here / WORK / "c").exists()


def test_a_run_begun_with_other_settings_stays_as_it_is(
    here: Path, there: Path, back: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in ("begun", "finished"):
        begin(here, key, 2, 1000)
    begin(there, "begun", 1, 2000)
    finish(there, "finished", 1, "2026-01-02", 2000)
    before = files(here)
    assert take(here, there, back) == 0
    assert files(here) == before
    told = capsys.readouterr().out
    assert f"{here / WORK / 'begun'} stays: it was begun with other settings" in told
    assert f"{here / WORK / 'finished'} stays: it was begun with other settings" in told


@pytest.mark.parametrize("settings", [1, 2])
def test_of_two_finished_runs_the_later_by_its_date_counts(
    settings: int, here: Path, there: Path, back: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The files' times say the contrary.
    for key, date_here, date_there in (("old", "2026-01-02", "2026-01-01"), ("new", "2026-01-01", "2026-01-02")):
        finish(here, key, 2, date_here, 1000 if key == "old" else 2000)
        finish(there, key, settings, date_there, 2000 if key == "old" else 1000)
    finish(here, "today", 2, "2026-01-03", 1000)
    finish(there, "today", settings, "2026-01-03", 2000)
    assert take(here, there, back) == 1
    records = {path.stem: json.loads(path.read_text()) for path in (here / WORK / "runs").iterdir()}
    assert {key: record["by"] for key, record in records.items()} == {"old": "here", "new": "there", "today": "here"}
    told = capsys.readouterr().out
    for key in ("old", "today"):
        assert f"runs/{key}.json stays: the archive's is of no later day" in told


def test_the_surfaces_of_figure_3_come_with_its_record(here: Path, there: Path, back: Path) -> None:
    dense = here / WORK / "figure3.npz"
    for project, changed in ((here, 1000), (there, 2000)):
        write(project / WORK / "figure3.npz", project.name, changed)
        finish(project, "figure3-kidney_3-3d_bn-0")
    assert take(here, there, back) == 0
    assert dense.read_text() == "here"
    finish(there, "figure3-kidney_3-3d_bn-0", date="2026-01-02")
    assert take(here, there, back) == 2
    assert dense.read_text() == "there"


def test_a_begun_run_takes_nothing_from_one_that_is_not_known(here: Path, there: Path, back: Path) -> None:
    """As a process leaves it that is killed while it clears a folder."""
    begun = begin(here, "a", 1, 1000)
    (begin(there, "a", 2, 2000) / "settings.json").unlink()
    before = files(begun)
    assert take(here, there, back) == 0
    assert files(begun) == before


def test_a_finished_run_replaces_one_that_was_to_be_made_anew(here: Path, there: Path, back: Path) -> None:
    path, begun = finish(here, "a", 1), begin(here, "a", 2)
    finish(there, "a", 2)
    assert take(here, there, back) == 1
    assert json.loads(path.read_text())["settings"] == {"seed": 2}
    assert not begun.exists()


@pytest.mark.parametrize("name", ["runs/...json", "runs/..json", "small/runs/...json", "small/runs/..json"])
def test_an_archive_deletes_nothing_but_begun_runs(name: str, here: Path, back: Path) -> None:
    finish(here, "a")
    begin(here, "b")
    before = files(here)
    record = {"key": Path(name).stem, "settings": {"seed": 1}, "date": "2026-01-01"}
    assert unpack(here, archive_of(back, (f"experiments/work/{name}", json.dumps(record).encode()))) == 0
    assert files(here) == before


@pytest.mark.parametrize("content", ["no JSON", "[]", "{}", '{"key": "b", "settings": {}, "date": "2026-01-01"}'])
def test_what_is_no_record_is_not_taken(content: str, here: Path, there: Path, back: Path) -> None:
    finish(here, "a", changed=1000)
    begin(here, "c")
    for key in ("a", "c"):
        write(there / WORK / "runs" / f"{key}.json", content)
    before = files(here)
    assert take(here, there, back) == 0
    assert files(here) == before


def test_an_archive_writes_nothing_elsewhere(here: Path, back: Path, tmp_path: Path) -> None:
    names = ("experiments/work/../../LICENSE", "/experiments/work/x", "../experiments/work/x", "experiments/work/good")
    before = files(tmp_path)
    assert unpack(here, archive_of(back, *((name, b"bad") for name in names))) == 1
    back.unlink()
    assert files(tmp_path) == {**before, "here/experiments/work/good": b"bad"}
    assert not Path("/experiments").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_an_archive_makes_no_links(kind: bytes, here: Path, back: Path) -> None:
    with tarfile.open(back, "w:gz") as packed:
        link = tarfile.TarInfo("experiments/work/link")
        link.type, link.linkname = kind, str(here / "LICENSE")
        packed.addfile(link)
    before = files(here)
    assert unpack(here, back) == 0
    assert files(here) == before


def test_of_an_archive_that_is_none_or_not_whole_nothing_is_taken(here: Path, there: Path, back: Path) -> None:
    begin(here, "a")
    finish(there, "a")
    write(there / TABLE, "there", 2000)
    (there / "experiments/work/noise").write_bytes(os.urandom(100_000))
    pack(there, back)
    whole, before = back.read_bytes(), files(here)
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    for content in (whole[: len(whole) // 2], whole[:-1], bytes(damaged), b"no archive", b""):
        back.write_bytes(content)
        with pytest.raises(InputError, match=r"back\.tar\.gz: cannot be unpacked \(.+\), 0 files were taken; copy it"):
            unpack(here, back)
        assert files(here) == before
    back.unlink()
    with pytest.raises(InputError, match=r"back\.tar\.gz: cannot be unpacked \(.*No such file.*\), 0 files were taken"):
        unpack(here, back)


def test_a_full_disk_is_said_to_be_one(here: Path, there: Path, back: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(there, "a")
    write(there / TABLE, "there", 2000)
    pack(there, back)
    copy = shutil.copy2

    def copy_one(source: Path, target: Path) -> Any:
        if source.name == "a.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return copy(source, target)

    monkeypatch.setattr(shutil, "copy2", copy_one)
    with pytest.raises(
        InputError, match=r"cannot be unpacked \(.*No space left on device\), 1 files were taken; .*room"
    ):
        unpack(here, back)
    assert (here / TABLE).read_text() == "there"
    assert not list(here.rglob(".*"))
