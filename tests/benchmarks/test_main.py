"""The command ``python -m benchmarks`` as a person types it, and the committed results."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.picture import draw_curves, draw_picture
from benchmarks.results import read_results
from project import PROJECT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tile",), "tile: there is no such part; there are tiles.monai"),
        (("tiles", "--minutes", "0"), "--minutes: 0; give more than 0"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: tuple[str, ...], message: str) -> None:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def test_committed_results_are_drawn(tmp_path: Path) -> None:
    results = read_results(PROJECT / "benchmarks" / "results.json")
    draw_picture(results, tmp_path / "bars.png")
    draw_curves(results, tmp_path / "curves.png")
    assert {path.name for path in tmp_path.iterdir()} == {"bars.png", "curves.png"}
