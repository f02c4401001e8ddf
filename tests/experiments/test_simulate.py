"""The command ``simulate``: which results it keeps and replaces, and which options it refuses."""

import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from dense_volumes import write_balls
from experiments.annotators import DENSE, Schedule
from experiments.comparison import Comparison, summarise
from experiments.simulate import SimulateOptions, in_rows, simulate
from experiments.simulate_report import write_simulate_report
from experiments.strategies import STRATEGIES
from game_records import record
from lib.core.errors import InputError
from project import PROJECT

SHORT = Schedule(first_steps=2, steps=1, most_slices=6)


@pytest.mark.usefixtures("small_network")
def test_the_command_keeps_what_is_done_and_other_data_sets(tmp_path: Path) -> None:
    write_balls(tmp_path / "balls")
    results = tmp_path / "out" / "results" / "simulate.json"
    options = SimulateOptions(tmp_path / "balls", "ball", "ball_2", ["next_slice"], 1, SHORT, 1, tmp_path / "out")
    simulate(options)
    content = json.loads(results.read_text())
    settings = content["balls, ball_2"]["settings"]
    games = tmp_path / "out" / "work" / "simulate" / "balls" / "ball_2"
    before = {path.name: path.stat().st_mtime_ns for path in games.iterdir()}

    records = [record(DENSE, seed, [0.5, 0.7, 0.9, 0.8]) for seed in (0, 1)]
    records += [record(name, seed, [0.3, 0.4, 0.5, 0.6]) for name in STRATEGIES for seed in (0, 1)]
    other = {**summarise(records), "settings": settings}
    # Made with another schedule, and as files were before they had settings.
    unlike = {"longer": {**other, "settings": {**settings, "course": [9, 9, 9]}}, "older": summarise(records)}
    results.write_text(json.dumps({**content, "other": other, **unlike}))
    simulate(options)
    content = json.loads(results.read_text())
    assert content["other"] == other
    assert set(content) == {"balls, ball_2", "other"}
    assert set(content["balls, ball_2"]["iou"]) == set(STRATEGIES)
    assert results.read_text() == in_rows(content)
    report = (tmp_path / "out" / "results" / "simulate.html").read_text()
    for part in ("<h2>other</h2>", "<h2>balls, ball_2</h2>", "clasp_pe", "image/png;base64", ", on a GPU."):
        assert part in report
    assert "All of these volumes" in report
    pictures = sorted((tmp_path / "out" / "results" / "simulate").iterdir())
    assert [path.name for path in pictures] == ["balls_ball_2.png", "other.png"]
    for path in pictures:
        drawn = np.rint(255 * matplotlib.image.imread(path)).astype(int)
        assert (drawn[:, :, :3] == (0xD5, 0x5E, 0x00)).all(axis=2).any()
    assert {path.name: path.stat().st_mtime_ns for path in games.iterdir()} == before


def test_results_are_json_with_a_row_for_each_curve() -> None:
    records = [record(DENSE, seed, [0.5, 0.75]) for seed in (0, 1)] + [record("random", 0, [0.25, 0.5])]
    course = [2, 1, 4]
    content = {"a, b": Comparison(**summarise(records), settings={"code": 1, "course": course})}
    text = in_rows(content)
    assert json.loads(text) == content
    assert text.splitlines()[2] == '  "slices": [3, 4],'
    assert "    [0.25, 0.5]\n" in text


@pytest.mark.parametrize(
    ("strategies", "seeds", "most", "message"),
    [
        (["next"], 1, 6, "--strategies: 'next'; give some of next_slice"),
        (["random"], 0, 6, "--seeds: 0; give at least 1"),
        (["random"], 1, 12, "--slices: 12; give 3 to 11 for ball_1"),
        (["random"], 1, 2, "--slices: 2; give 3 to 11 for ball_1"),
    ],
)
def test_bad_options_are_refused(strategies: list[str], seeds: int, most: int, message: str, tmp_path: Path) -> None:
    write_balls(tmp_path / "balls")
    schedule = Schedule(2, 1, most)
    with pytest.raises(InputError, match=message):
        simulate(SimulateOptions(tmp_path / "balls", "", None, strategies, seeds, schedule, 1, tmp_path))


def test_a_volume_that_is_not_there_is_refused(tmp_path: Path) -> None:
    write_balls(tmp_path / "balls")
    with pytest.raises(InputError, match="--volume: 'ball'; give one of ball_1, ball_2"):
        simulate(SimulateOptions(tmp_path / "balls", "", "ball", ["random"], 1, SHORT, 1, tmp_path))


def test_committed_results_are_shown(tmp_path: Path) -> None:
    results = json.loads((PROJECT / "experiments" / "results" / "simulate.json").read_text())
    write_simulate_report(tmp_path / "simulate.html", results)
    html = (tmp_path / "simulate.html").read_text()
    # As experiments/README.md has it.
    assert "0.878 (0.839 to 0.916)" in html
    assert "of next_slice is 0.42; on average 0.0219 was expected, and 0.0151 followed" in html
    assert "16.9 (4.6 to 30.0)" in html
    assert "next_slice 6, evenly_spaced 18, random 16, foreground_random 9: 33% less" in html
