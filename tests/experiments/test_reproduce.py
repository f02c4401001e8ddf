"""The command ``reproduce`` as a person runs it, and its archives."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from dense_volumes import write_balls
from experiments.__main__ import app
from experiments.methods import METHODS, MethodInput, Segment, cut_slices
from experiments.reproduce import ReproduceOptions
from experiments.reproduce import reproduce as make
from lib.core.errors import InputError
from project import PROJECT

COMMAND = [sys.executable, "-m", "experiments", "reproduce"]


def reproduce(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], cwd=PROJECT, capture_output=True, text=True, check=False)


def reproduce_here(*arguments: object) -> str:
    """The same in this process; return what it says."""
    done = CliRunner().invoke(app, ["reproduce", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def balls(tmp_path: Path) -> Path:
    write_balls(tmp_path / "balls")
    return tmp_path / "balls"


def test_everything_is_made_in_pieces_by_parallel_processes(balls: Path, tmp_path: Path) -> None:
    output = tmp_path / "experiments"
    asked = ("--data", balls, "--methods", "3d_bn,2d_bn,3d_bn", "--steps", 2, "--output", output)
    # The time is over before the first run begins.
    late = reproduce("all", *asked, "--minutes", 0, "--jobs", 1)
    assert late.returncode == 3, late.stderr
    assert "31 runs are unfinished; the same command continues" in late.stdout
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
        f"python -m experiments reproduce table3 --size small --data {balls} --methods 2d_bn,3d_bn --steps 2"
    )
    report = (results / "report.html").read_text()
    assert (results / "figure3.png").stat().st_size > 1000
    for part in ("Table 1", "Table 2", "Table 3", "Figure 3", "3-D with BN", "2-D with BN"):
        assert part in report

    # Another method is added to the finished ones; nothing is done twice.
    more = reproduce_here(
        "table3", "--data", balls, "--methods", "3d_no_bn", "--steps", 2, "--output", output, "--jobs", 1
    )
    assert "2 runs, 0 of them are finished already" in more
    assert set(json.loads((results / "table3.json").read_text())["average"]) == {"2d_bn", "3d_no_bn", "3d_bn"}
    again = reproduce_here("table3", *asked, "--jobs", 1)
    assert "4 runs, 4 of them are finished already" in again
    assert "made by other commits" not in again
    # The report keeps the pictures of tables that weren't asked for.
    assert (results / "report.html").read_text().count("<img") == report.count("<img") + 2

    # Results of another commit are reported as such.
    path = runs / "table3-ball_1-3d_bn-0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "commit": "abcdef1", "date": "2026-01-02"}))
    again = reproduce_here("table3", *asked, "--jobs", 1)
    assert "made by other commits (abcdef1)" in again
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
        ({"jobs": 0}, "--jobs: 0; give at least 1"),
        ({"jobs": 2, "dask": "tcp://127.0.0.1:9"}, "--jobs: 2; the workers at --dask decide"),
        ({"folder": Path("nowhere")}, "nowhere/images: no such folder"),
    ],
)
def test_bad_options_are_refused(changes: dict[str, Any], message: str, balls: Path, tmp_path: Path) -> None:
    options = ReproduceOptions(("table1",), "small", balls, "", None, 1, 1, None, 1, None, tmp_path)
    with pytest.raises(InputError, match=re.escape(message)):
        make(replace(options, **changes))
    assert not (tmp_path / "results").exists()


def test_a_table_that_no_method_can_do_is_refused(balls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "3d_bn", replace(METHODS["3d_bn"], segments_unseen=False))
    options = ReproduceOptions(("table1", "table3"), "small", balls, "", ["3d_bn"], 1, 1, None, 1, None, tmp_path)
    with pytest.raises(InputError, match="table3: 3d_bn can only segment the volumes learnt from"):
        make(options)


def test_a_run_that_cannot_be_continued_is_not_begun_without_time(
    balls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "3d_bn", replace(METHODS["3d_bn"], in_one_go=True))
    options = ReproduceOptions(("table3",), "small", balls, "", ["3d_bn"], 1, 1, 5.0, 1, None, tmp_path)
    with pytest.raises(InputError, match=re.escape("--minutes: 5; 3d_bn takes 5 minutes and can't be continued")):
        make(options)
    # This time would be enough for one run, if it began at once.
    assert not make(replace(options, minutes=5 + 1e-6))
    assert not list((tmp_path / "work").rglob("runs"))
    assert make(replace(options, minutes=10000.0))


def segments_nothing(given: MethodInput) -> Segment:
    return lambda _name, volume, places: cut_slices(np.zeros(volume.shape, np.uint8), places)


def test_without_a_gpu_the_runs_that_need_none_are_done(
    balls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    without = replace(METHODS["interpolation"], package=None, learn=segments_nothing)
    monkeypatch.setitem(METHODS, "interpolation", without)
    options = ReproduceOptions(
        ("table2",), "paper", balls, "", ["3d_bn", "interpolation"], 1, None, None, 1, None, tmp_path
    )
    assert not make(options)
    records = [json.loads(path.read_text()) for path in (tmp_path / "work").rglob("runs/*.json")]
    assert {record["method"] for record in records} == {"interpolation"}
    assert len(records) == 10
    assert make(replace(options, methods=["interpolation"]))


def test_the_same_runs_are_not_done_twice_at_once(balls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ReproduceOptions(("table3",), "small", balls, "", ["3d_bn"], 1, 1, None, 1, None, tmp_path)
    tried = []

    def learn(given: MethodInput) -> Segment:
        tried.append(given)
        if len(tried) == 1:
            with pytest.raises(InputError, match=r"work/small_1_steps/balls: another `reproduce` is at work there"):
                make(options)
        return segments_nothing(given)

    monkeypatch.setitem(METHODS, "3d_bn", replace(METHODS["3d_bn"], learn=learn))
    assert make(options)
    assert len(tried) == 2
    # The other one has ended.
    assert make(options)


def test_commands_name_the_existing_methods_and_seeds(tmp_path: Path) -> None:
    folder = tmp_path / "my volumes; all"
    options = ReproduceOptions(("table1",), "small", folder, "a,b c", None, 1, None, None, 1, None, tmp_path)
    seeds = {"default": (0,), "3d_no_bn": (0,), "2d_bn": (0, 1, 2), "3d_bn": (0, 1, 2), "nnunetv2": (0, 1)}
    records = [{"method": method, "seed": seed} for method, own in seeds.items() for seed in own]
    asked = {}
    for command in options.command("table1", records).split(" && "):
        words = shlex.split(command)
        assert words[:5] == ["python", "-m", "experiments", "reproduce", "table1"]
        given = dict(zip(words[5::2], words[6::2], strict=True))
        assert (given["--data"], given["--labels"]) == (str(folder), "a,b c")
        asked |= {method: int(given.get("--seeds", 1)) for method in given["--methods"].split(",")}
    assert asked == {method: len(own) for method, own in seeds.items()}
    # The methods that a table consists of needn't be named.
    of_table = [{"method": method, "seed": 0} for method in ("2d_bn", "3d_no_bn", "3d_bn", "default")]
    phantom = replace(options, folder=None, labels="")
    assert phantom.command("table1", of_table) == "python -m experiments reproduce table1 --size small"


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = reproduce("table1", "--data", tmp_path, "--output", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{tmp_path}/images: no such folder" in done.stderr


def test_needs_nothing_that_a_rented_machine_lacks(balls: Path, tmp_path: Path) -> None:
    """Runs need only what experiments/README.md lists; the report is made later."""
    lacking = ("monailabel", "joblib", "PIL", "matplotlib", "skimage", "jinja2", "itk", "fastapi")
    code = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({lacking})); "
        f"sys.argv[1:] = {['reproduce', 'table3', '--data', str(balls), '--methods', '3d_bn,default']!r}; "
        f"sys.argv += {['--steps', '1', '--jobs', '1', '--output', str(tmp_path)]!r}; "
        "runpy.run_module('experiments', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = tmp_path / "results" / "small_1_steps" / "balls"
    assert set(json.loads((results / "table3.json").read_text())["average"]) == {"3d_bn", "default"}
    assert not (results / "report.html").exists()
