"""The command ``reproduce`` as a person runs it, and its archives."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from dense_volumes import write_balls
from lib.core.errors import InputError
from lib.experiments.travel import pack, unpack

PROJECT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(PROJECT / "apps" / "sparse_unet3d"), "reproduce"]


def reproduce(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture
def balls(tmp_path: Path) -> Path:
    write_balls(tmp_path / "balls")
    return tmp_path / "balls"


def test_table_is_made_in_pieces_by_processes_beside_each_other(balls: Path, tmp_path: Path) -> None:
    output = tmp_path / "experiments"
    asked = ("table3", "--data", balls, "--methods", "3d_bn,2d_bn", "--steps", 2, "--output", output)
    # Done with before it begins.
    late = reproduce(*asked, "--minutes", 0, "--jobs", 1)
    assert late.returncode == 3, late.stderr
    assert "4 runs unfinished; the same command goes on" in late.stdout
    done = reproduce(*asked, "--jobs", 2)
    assert done.returncode == 0, done.stderr
    results = output / "results" / "small" / "balls"
    table = json.loads((results / "table3.json").read_text())
    assert [row["test"] for row in table["rows"]] == ["ball_1", "ball_2"]
    records = [json.loads(path.read_text()) for path in (results / "runs").iterdir()]
    for row in table["rows"]:
        for method in ("3d_bn", "2d_bn"):
            (record,) = [r for r in records if (r["row"], r["method"]) == (row["test"], method)]
            assert row[method] == record["mean_iou"]
            assert record["settings"]["steps"] == 2
    assert "paper" not in table["rows"][0]
    assert table["command"] == (
        "python apps/sparse_unet3d reproduce table3 --size small --data balls --methods 3d_bn,2d_bn --steps 2"
    )
    assert "data:image/png;base64" in (results / "report.html").read_text()
    again = reproduce(*asked, "--jobs", 1)
    assert "4 runs, 4 of them are finished already" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "3d_bn,unet"), "--methods: 'unet'; give some of 2d_bn"),
        (("--seeds", "0"), "--seeds: 0; give at least 1"),
        (("--data", "nowhere"), "nowhere/images: no such folder"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(
    arguments: tuple[str, ...], message: str, balls: Path, tmp_path: Path
) -> None:
    given = arguments if "--data" in arguments else ("--data", str(balls), *arguments)
    done = reproduce("table1", *given, "--output", tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


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
    results = tmp_path / "results" / "small" / "balls"
    assert set(json.loads((results / "table3.json").read_text())["average"]) == {"3d_bn", "default"}
    assert not (results / "report.html").exists()


def test_results_travel_and_come_back(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for project in (here, there):
        for folder in (
            "apps/app/model",
            "apps/app/lib",
            "experiments/results/small/runs",
            "experiments/work/small/a",
        ):
            (project / folder).mkdir(parents=True)
    (here / "apps/app/lib/code.py").write_text("code")
    (here / "apps/app/model/model.pt").write_text("weights")
    (here / "experiments/results/small/runs/a.json").write_text("{}")
    pack(here, tmp_path / "to.tar.gz")
    with tarfile.open(tmp_path / "to.tar.gz") as packed:
        files = {entry.name for entry in packed.getmembers() if entry.isfile()}
    assert files == {"apps/app/lib/code.py", "experiments/results/small/runs/a.json"}
    (there / "apps/app/lib/code.py").write_text("changed there")
    (there / "experiments/results/small/runs/b.json").write_text("{}")
    (there / "experiments/work/small/a/checkpoint.pt").write_text("state")
    pack(there, tmp_path / "back.tar.gz")
    assert unpack(here, tmp_path / "back.tar.gz") == 2
    assert (here / "experiments/results/small/runs/b.json").exists()
    assert (here / "experiments/work/small/a/checkpoint.pt").read_text() == "state"
    assert (here / "apps/app/lib/code.py").read_text() == "code"
    with pytest.raises(InputError, match=r"code\.py: cannot be read as an archive"):
        unpack(here, here / "apps/app/lib/code.py")
