"""The command ``reproduce`` as a person runs it, and its archives."""

import io
import json
import os
import re
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dense_volumes import write_balls
from lib.core.errors import InputError
from lib.experiments.methods import METHODS
from lib.experiments.reproduce import Options
from lib.experiments.reproduce import reproduce as make
from lib.experiments.travel import pack, unpack

PROJECT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(PROJECT / "apps" / "sparse_unet3d"), "reproduce"]


def reproduce(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture
def balls(tmp_path: Path) -> Path:
    write_balls(tmp_path / "balls")
    return tmp_path / "balls"


def test_all_is_made_in_pieces_by_processes_beside_each_other(balls: Path, tmp_path: Path) -> None:
    output = tmp_path / "experiments"
    asked = ("--data", balls, "--methods", "3d_bn,2d_bn,3d_bn", "--steps", 2, "--output", output)
    # Over before it begins.
    late = reproduce("all", *asked, "--minutes", 0, "--jobs", 1)
    assert late.returncode == 3, late.stderr
    assert "31 runs are unfinished; the same command goes on" in late.stdout
    done = reproduce("all", *asked, "--jobs", 2)
    assert done.returncode == 0, done.stderr
    results = output / "results" / "small_2_steps" / "balls"
    tables = {name: json.loads((results / f"{name}.json").read_text()) for name in ("table1", "table2", "table3")}
    assert [row["test"] for row in tables["table1"]["rows"]] == ["subset_1", "subset_2", "subset_3"]
    assert tables["table2"]["rows"][0]["slices"] == [1, 1, 1]
    assert [row["test"] for row in tables["table3"]["rows"]] == ["ball_1", "ball_2"]
    runs = output / "work" / "small_2_steps" / "balls" / "runs"
    for row in tables["table3"]["rows"]:
        for method in ("3d_bn", "2d_bn"):
            record = json.loads((runs / f"table3-{row['test']}-{method}-0.json").read_text())
            assert row[method] == record["mean_iou"]
            assert record["settings"]["steps"] == 2
    assert all("paper" not in row for table in tables.values() for row in table["rows"])
    assert tables["table3"]["command"] == (
        f"python apps/sparse_unet3d reproduce table3 --size small --data {balls} --methods 2d_bn,3d_bn --steps 2"
    )
    report = (results / "report.html").read_text()
    assert (results / "figure3.png").stat().st_size > 1000
    for part in ("Table 1", "Table 2", "Table 3", "Figure 3", "3-D with BN", "2-D with BN"):
        assert part in report

    # Another method joins those that there are; nothing is done twice.
    more = reproduce("table3", "--data", balls, "--methods", "3d_no_bn", "--steps", 2, "--output", output, "--jobs", 1)
    assert "2 runs, 0 of them are finished already" in more.stdout
    assert set(json.loads((results / "table3.json").read_text())["average"]) == {"2d_bn", "3d_no_bn", "3d_bn"}
    again = reproduce("table3", *asked, "--jobs", 1)
    assert "4 runs, 4 of them are finished already" in again.stdout
    assert "made by other commits" not in again.stdout
    # Of tables that weren't asked for, the pictures stay in the report, too.
    assert (results / "report.html").read_text().count("<img") == report.count("<img") + 2

    # What other software made is said to be so.
    path = runs / "table3-ball_1-3d_bn-0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "commit": "abcdef1", "date": "2026-01-02"}))
    again = reproduce("table3", *asked, "--jobs", 1)
    assert "made by other commits (abcdef1)" in again.stdout
    table = json.loads((results / "table3.json").read_text())
    assert "abcdef1" in table["commits"]["3d_bn"]
    assert "abcdef1" not in table["commits"]["2d_bn"]
    assert table["date"] > "2026-01-02"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["3d_bn", "unet"]}, "--methods: 'unet'; give some of 2d_bn"),
        ({"seeds": 0}, "--seeds: 0; give at least 1"),
        ({"steps": 0}, "--steps: 0; give at least 1"),
        ({"folder": Path("nowhere")}, "nowhere/images: no such folder"),
    ],
)
def test_bad_options_are_refused(changes: dict[str, Any], message: str, balls: Path, tmp_path: Path) -> None:
    options = Options(("table1",), "small", balls, "", None, 1, None, None, 1, None, tmp_path)
    with pytest.raises(InputError, match=re.escape(message)):
        make(replace(options, **changes))
    assert not (tmp_path / "results").exists()


def test_a_table_that_no_method_can_do_is_refused(balls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "3d_bn", replace(METHODS["3d_bn"], segments_unseen=False))
    options = Options(("table1", "table3"), "small", balls, "", ["3d_bn"], 1, 1, None, 1, None, tmp_path)
    with pytest.raises(InputError, match="table3: 3d_bn can only segment volumes learnt from"):
        make(options)


def test_what_cannot_be_continued_is_not_begun_without_time(
    balls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "3d_bn", replace(METHODS["3d_bn"], in_one_go=True))
    options = Options(("table3",), "small", balls, "", ["3d_bn"], 1, 1, 5.0, 1, None, tmp_path)
    with pytest.raises(InputError, match=re.escape("--minutes: 5; 3d_bn takes 5 minutes and can't be continued")):
        make(options)
    # Enough for one, had it begun at once.
    assert not make(replace(options, minutes=5 + 1e-6))
    assert not list((tmp_path / "work").rglob("runs"))
    assert make(replace(options, minutes=10.0))


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = reproduce("table1", "--data", tmp_path, "--output", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{tmp_path}/images: no such folder" in done.stderr


def test_needs_nothing_that_a_rented_machine_lacks(balls: Path, tmp_path: Path) -> None:
    """Only torch, numpy, scipy, nibabel and monai are there; the report is left for later."""
    lacking = ("monailabel", "joblib", "PIL", "matplotlib", "skimage", "itk", "fastapi", "psutil")
    code = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({lacking})); "
        f"sys.argv[1:] = {['reproduce', 'table3', '--data', str(balls), '--methods', '3d_bn,default']!r}; "
        f"sys.argv += {['--steps', '1', '--jobs', '1', '--output', str(tmp_path)]!r}; "
        f"runpy.run_path({str(PROJECT / 'apps' / 'sparse_unet3d')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = tmp_path / "results" / "small_1_steps" / "balls"
    assert set(json.loads((results / "table3.json").read_text())["average"]) == {"3d_bn", "default"}
    assert not (results / "report.html").exists()


@pytest.fixture
def projects(tmp_path: Path) -> tuple[Path, Path]:
    """Two project folders, with other results."""
    here, there = tmp_path / "here", tmp_path / "there"
    for project, run in ((here, "a"), (there, "b")):
        for name in ("apps/sparse_unet3d/model/model.pt", "apps/sparse_unet3d/lib/code.py", "LICENSE"):
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            (project / name).write_text(f"{run}'s")
        for name in ("results/small/table1.json", f"work/small/runs/{run}.json", "work/small/model/checkpoint.pt"):
            (project / "experiments" / name).parent.mkdir(parents=True, exist_ok=True)
            (project / "experiments" / name).write_text(f"{run}'s")
    return here, there


def test_software_and_runs_travel(projects: tuple[Path, Path], tmp_path: Path) -> None:
    here, _ = projects
    pack(here, tmp_path / "to.tar.gz")
    with tarfile.open(tmp_path / "to.tar.gz") as packed:
        files = {entry.name for entry in packed.getmembers() if entry.isfile()}
        commit = packed.extractfile("apps/sparse_unet3d/commit.txt").read().decode()  # type: ignore[union-attr]
    assert files == {
        "apps/sparse_unet3d/commit.txt",
        "apps/sparse_unet3d/lib/code.py",
        "experiments/results/small/table1.json",
        "experiments/work/small/model/checkpoint.pt",
        "experiments/work/small/runs/a.json",
    }
    assert commit


def test_volumes_travel_too(projects: tuple[Path, Path], balls: Path, tmp_path: Path) -> None:
    pack(projects[0], tmp_path / "to.tar.gz", balls)
    with tarfile.open(tmp_path / "to.tar.gz") as packed:
        for part in ("images", "labels"):
            paths = sorted((balls / part).iterdir())
            assert paths
            for path in paths:
                content = packed.extractfile(f"data/balls/{part}/{path.name}").read()  # type: ignore[union-attr]
                assert content == path.read_bytes()
    with pytest.raises(InputError, match=re.escape("here/images: no such folder; give a folder with images and")):
        pack(projects[0], tmp_path / "other.tar.gz", projects[0])
    assert not (tmp_path / "other.tar.gz").exists()


def test_what_was_begun_of_a_run_that_comes_back_finished_is_removed(
    projects: tuple[Path, Path], tmp_path: Path
) -> None:
    here, there = projects
    work = Path("experiments/work/small")
    (there / work / "runs" / "model.json").write_text("finished")
    (there / work / "model" / "checkpoint.pt").unlink()
    pack(there, tmp_path / "back.tar.gz")
    unpack(here, tmp_path / "back.tar.gz")
    assert (here / work / "runs" / "model.json").read_text() == "finished"
    assert not (here / work / "model").exists()
    assert (here / work / "runs" / "a.json").exists()


def test_newer_results_come_back(projects: tuple[Path, Path], tmp_path: Path) -> None:
    here, there = projects
    newer, older = "experiments/work/small/model/checkpoint.pt", "experiments/results/small/table1.json"
    os.utime(here / newer, (1000, 1000))
    os.utime(there / older, (1000, 1000))
    pack(there, tmp_path / "back.tar.gz")
    assert unpack(here, tmp_path / "back.tar.gz") == 2
    assert (here / "experiments/work/small/runs/b.json").read_text() == "b's"
    assert (here / newer).read_text() == "b's"
    for kept in (older, "experiments/work/small/runs/a.json", "apps/sparse_unet3d/lib/code.py", "LICENSE"):
        assert (here / kept).read_text() == "a's"
    # Twice does no harm.
    assert unpack(here, tmp_path / "back.tar.gz") == 0


def test_archives_that_are_none_or_not_whole_are_refused(projects: tuple[Path, Path], tmp_path: Path) -> None:
    here, there = projects
    (there / "experiments/work/small/runs/noise.json").write_bytes(os.urandom(100_000))
    pack(there, tmp_path / "back.tar.gz")
    whole = (tmp_path / "back.tar.gz").read_bytes()
    for content in (whole[: len(whole) // 2], b"no archive"):
        (tmp_path / "back.tar.gz").write_bytes(content)
        with pytest.raises(InputError, match=r"back\.tar\.gz: cannot be read as a whole archive"):
            unpack(here, tmp_path / "back.tar.gz")
    assert not (here / "experiments/work/small/runs/noise.json").exists()


def test_archive_writes_nothing_elsewhere(projects: tuple[Path, Path], tmp_path: Path) -> None:
    names = ("experiments/work/../../LICENSE", "/experiments/work/x", "../experiments/work/x", "experiments/work/good")
    with tarfile.open(tmp_path / "bad.tar.gz", "w:gz") as packed:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = 3
            packed.addfile(entry, io.BytesIO(b"bad"))
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert unpack(projects[0], tmp_path / "bad.tar.gz") == 1
    assert {path for path in tmp_path.rglob("*") if path.is_file()} - before == {projects[0] / "experiments/work/good"}
    assert (projects[0] / "LICENSE").read_text() == "a's"
    assert not Path("/experiments").exists()


def test_a_run_begun_with_other_settings_since_stays_as_it_is(projects: tuple[Path, Path], tmp_path: Path) -> None:
    here, there = projects
    folder = Path("experiments/work/small/model")
    for project, settings in ((here, "{1}"), (there, "{2}")):
        (project / folder / "settings.json").write_text(settings)
    os.utime(here / folder / "checkpoint.pt", (1000, 1000))
    pack(there, tmp_path / "back.tar.gz")
    unpack(here, tmp_path / "back.tar.gz")
    assert (here / folder / "checkpoint.pt").read_text() == "a's"
    assert (here / folder / "settings.json").read_text() == "{1}"
