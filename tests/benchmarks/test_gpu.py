"""The agenda of a GPU, and how it is gone through: by real commands, on the CPU."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks import __main__ as benchmarks_command
from benchmarks import gpu
from benchmarks.gpu import Item, State, agenda, go_through
from benchmarks.timing import select
from dense_volumes import write_balls
from experiments import __main__ as experiments_command
from experiments.annotators import Schedule
from experiments.simulate import compared_by
from lib.core.errors import InputError
from project import PROJECT


def test_without_a_gpu_it_says_what_to_do() -> None:
    """On a machine, too, that lacks what benchmarks/README.md doesn't list."""
    lacking = ("monailabel", "joblib", "itk", "fastapi", "distributed", "h5py", "skimage", "sklearn", "zarr")
    code = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({lacking})); sys.argv[1:] = ['gpu', '--minutes', '9']; "
        "runpy.run_module('benchmarks', run_name='__main__')"
    )
    no_gpu = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PROJECT, env=no_gpu, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("gpu: computing on the CPU")
    assert "give the same command on a computer with an NVIDIA GPU" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("also", "named"), [(["tiles"], "tiles"), (["--repeats", "2"], "--repeats")])
def test_what_does_not_go_with_it_is_refused(also: list[str], named: str) -> None:
    done = CliRunner().invoke(benchmarks_command.app, ["gpu", *also])
    assert isinstance(done.exception, InputError)
    assert str(done.exception) == f"{named}: gpu takes --minutes and --results only; leave it out"


def measured(**entries: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Entries of a GPU; names have _ for points."""
    return {"cuda." + name.replace("__", "."): entry for name, entry in entries.items()}


STEP = {"facts": {"half": {"step_seconds": 0.03}}}


def test_items_are_in_order_and_their_commands_are_understood(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(measured(step__paper_training=STEP)))
    items = agenda(tmp_path / "results.json", tmp_path)
    groups = list(dict.fromkeys(item.name.split(" ")[0].split(".")[0] for item in items))
    assert groups == ["step", "paper", "inference", "time_to_iou", "table1", "simulate"]
    apps = {"benchmarks": benchmarks_command.app, "experiments": experiments_command.app}
    for item in items:
        package, *words = item.command
        if item.continues:
            words += ["--minutes", "3.5"]
        command = typer.main.get_command(apps[package])
        if package == "experiments":
            command, words = command.commands[words[0]], words[1:]  # type: ignore[attr-defined]
        context = command.make_context(package, words)
        if package == "benchmarks":
            assert select(benchmarks_command.KEYS, context.params["parts"]) == context.params["parts"]


def states(results: dict[str, Any], folder: Path) -> dict[str, State]:
    (folder / "results.json").write_text(json.dumps(results))
    return {item.name: item.state for item in agenda(folder / "results.json", folder)}


def test_what_is_there_is_not_missing(tmp_path: Path) -> None:
    found = states({"step.paper_training": STEP}, tmp_path)
    assert set(found.values()) == {State.MISSING}
    assert not any(name.startswith("table1") for name in found)
    training = {"steps": 10, "all_steps": 70_000}
    pair = {f"time_to_iou__phantom__0.{level}__monai_basicunet_tuned": {} for level in (70, 80)}
    there = measured(step__paper_training=STEP, paper__iterations=training, inference__depth={}, **pair)
    found = states(there, tmp_path)
    assert {name for name, state in found.items() if state is not State.MISSING} == {
        "step.paper_training",
        "paper.iterations",
        "inference.depth",
        "time_to_iou.phantom.0.70.monai_basicunet_tuned time_to_iou.phantom.0.80.monai_basicunet_tuned",
    }
    assert found["paper.iterations"] is State.UNFINISHED
    finished = measured(paper__iterations={**training, "steps": 70_000})
    assert states({**there, **finished}, tmp_path)["paper.iterations"] is State.FINISHED


def test_table_1_is_there_when_all_methods_have_all_rows(tmp_path: Path) -> None:
    there = measured(step__paper_training=STEP)
    table = tmp_path / "paper_8000_steps" / "table1.json"
    table.parent.mkdir()
    table.write_text(json.dumps({"average": {"3d_bn": 0.5}}))
    assert states(there, tmp_path)["table1 with 8000 steps"] is State.UNFINISHED
    table.write_text(json.dumps({"average": dict.fromkeys(("2d_bn", "3d_no_bn", "3d_bn", "default", "paper"), 0.5)}))
    assert states(there, tmp_path)["table1 with 8000 steps"] is State.FINISHED


def test_simulations_by_other_code_are_missing(tmp_path: Path) -> None:
    now = compared_by(Schedule())
    results = {"phantom, kidney_1": {"settings": now}, "phantom, kidney_2": {"settings": {**now, "code": 1}}}
    (tmp_path / "simulate.json").write_text(json.dumps(results))
    found = states({}, tmp_path)
    assert found["simulate on kidney_1"] is State.FINISHED
    assert found["simulate on kidney_2"] is found["simulate on kidney_3"] is State.MISSING


class Tables:
    """Tables of two volumes, which real commands make in a folder."""

    def __init__(self, folder: Path) -> None:
        write_balls(folder / "balls")
        self.folder = folder

    def work(self, steps: int) -> Path:
        return self.folder / "work" / f"small_{steps}_steps" / "balls"

    def item(self, table: str, steps: int, minutes: float = 0.1) -> Item:
        """The item of a table with so many steps."""
        words = ("reproduce", table, "--data", str(self.folder / "balls"), "--methods", "3d_bn", "--jobs", "1")
        command = ("experiments", *words, "--steps", str(steps), "--output", str(self.folder))
        there = (self.folder / "results" / f"small_{steps}_steps" / "balls" / f"{table}.json").exists()
        return Item(f"{table} {steps}", command, State.FINISHED if there else State.MISSING, minutes)


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)


def begun(said: str) -> list[str]:
    return [line.removesuffix(": begun") for line in said.splitlines() if line.endswith(": begun")]


def test_what_is_missing_comes_before_what_is_unfinished(tables: Tables, capsys: pytest.CaptureFixture[str]) -> None:
    """One item fails, which stops no other one; a finished one isn't done again."""
    wrong = Item("wrong", ("benchmarks", "tile"), State.MISSING, 0)
    finished = Item("finished", ("benchmarks", "tile"), State.FINISHED, 0)

    def items() -> list[Item]:
        first = tables.item("table3", 1)
        unfinished = replace(first, state=max(first.state, State.UNFINISHED))
        return [unfinished, wrong, finished, tables.item("table3", 2)]

    assert go_through(items, None) == 1
    said = capsys.readouterr().out
    assert begun(said) == ["wrong", "table3 2", "table3 1"]
    assert "wrong: failed with code 2" in said
    assert [item.state for item in items()] == [State.FINISHED, State.MISSING, State.FINISHED, State.FINISHED]
    assert go_through(items, None) == 1
    assert begun(capsys.readouterr().out) == ["wrong"]


def test_the_time_is_kept(tables: Tables, capsys: pytest.CaptureFixture[str]) -> None:
    """What is running when the time is up is stopped with all its processes; what takes longer isn't begun."""

    def items() -> list[Item]:
        return [tables.item("table3", 100_000), tables.item("table3", 1, minutes=5)]

    began = time.monotonic()
    assert go_through(items, 0.3) == gpu.UNFINISHED
    assert time.monotonic() - began < 0.3 * 60 + gpu.STOPPING + 60
    said = capsys.readouterr().out
    assert begun(said) == ["table3 100000"]
    assert "table3 1: missing, needs 5 minutes or more" in said
    assert not [child for child in psutil.Process().children(recursive=True) if "reproduce" in child.cmdline()]


@pytest.mark.slow
def test_what_can_be_continued_goes_on(tables: Tables) -> None:
    """The command stops by itself in time, and goes on at its checkpoint."""
    made: list[int] = []
    for _ in range(2):
        assert go_through(lambda: [replace(tables.item("figure3", 100_000), continues=True)], 1.1) == gpu.UNFINISHED
        (checkpoint,) = tables.work(100_000).rglob("*.pt")
        made.append(torch.load(checkpoint, weights_only=False)["steps"])
    assert 0 < made[0] < made[1]
