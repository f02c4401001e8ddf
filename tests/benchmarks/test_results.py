import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.picture import draw_picture
from benchmarks.results import merge_result, read_results
from benchmarks.timing import Side, SideError, Timings, compare, measure, select
from lib.core.errors import InputError

KEYS = ("tiles.monai", "tiles.torchio", "tilesets.other", "inference.depth")


def test_merging_keeps_what_was_not_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    merge_result(path, "cpu", {"cores": 2}, "tiles.monai", {"ours": 1})
    merge_result(path, "cpu", {"cores": 2}, "tiles.torchio", {"ours": 2})
    merge_result(path, "cuda", {"gpu": "some"}, "tiles.monai", {"ours": 3})
    merge_result(path, "cpu", {"cores": 4}, "tiles.monai", {"ours": 4})
    assert json.loads(path.read_text()) == {
        "machines": [{"cores": 2}, {"gpu": "some"}, {"cores": 4}],
        "tiles.monai": {"ours": 4, "machine": 2},
        "tiles.torchio": {"ours": 2, "machine": 0},
        "cuda.tiles.monai": {"ours": 3, "machine": 1},
    }
    assert set(read_results(path)) == {"tiles.monai", "tiles.torchio", "cuda.tiles.monai"}
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_parts_are_named_by_key_or_group() -> None:
    assert select(KEYS, []) == list(KEYS)
    assert select(KEYS, ["tiles"]) == ["tiles.monai", "tiles.torchio"]
    assert select(KEYS, ["inference.depth", "tiles.monai"]) == ["tiles.monai", "inference.depth"]
    with pytest.raises(InputError, match=r"tile: there is no such part; there are tiles\.monai"):
        select(KEYS, ["tile"])


def test_the_fastest_way_of_the_other_software_counts() -> None:
    ours = Timings([2.0, 1.0, 4.0], peak_bytes=10**9)
    theirs = {"slow": Timings([9.0, 9.0, 9.0]), "fast": Timings([8.0, 6.0, 4.0], peak_bytes=3 * 10**9)}
    entry = compare(ours, theirs, bar=10.0, command="c", note="n")
    assert (entry["ours"], entry["theirs"], entry["theirs_is"], entry["ratio"]) == (2.0, 6.0, "fast", 3.0)
    assert entry["spread"] == [1.0, 6.0]
    assert entry["peak_gb"] == {"ours": 1.0, "slow": 0.0, "fast": 3.0}


def test_sides_run_in_turns_each_in_its_own_process() -> None:
    said: list[str] = []
    sides = {
        "whole": Side("tests.benchmarks.sides:sleeper", {"seconds": 0.2, "allocate": 0}),
        "part": Side("tests.benchmarks.sides:sleeper", {"seconds": 0.1, "allocate": 100_000_000, "done": 0.01}),
    }
    runs = measure(sides, repeats=2, warm_up=True, announce=said.append)
    assert len(runs["whole"].seconds) == 2
    assert min(runs["whole"].seconds) >= 0.2
    # A part of the work is scaled to all of it.
    assert min(runs["part"].seconds) >= 0.1 / 0.01
    assert runs["whole"].facts["calls"] == 3
    assert runs["whole"].facts["pid"] != runs["part"].facts["pid"]
    assert 80e6 < runs["part"].peak_bytes - runs["whole"].peak_bytes < 150e6
    turns = [text for text in said if "%" not in text]
    assert turns[2:] == [
        *("part: warming up", "whole: warming up"),
        *("whole: run 1 of 2", "part: run 1 of 2"),
        *("part: run 2 of 2", "whole: run 2 of 2"),
    ]
    assert "part: 50 % of run 2 of 2" in said


def test_a_failing_side_is_named_with_its_output() -> None:
    with pytest.raises(SideError, match=r"(?s)broken ended with code 1.*no such thing"):
        measure({"broken": Side("tests.benchmarks.sides:broken")}, 1, warm_up=False, announce=lambda _: None)


def test_picture_shows_each_comparison(tmp_path: Path) -> None:
    entry: dict[str, Any] = compare(Timings([1.0]), {"peer": Timings([5.0])}, bar=4.0, command="c", note="n")
    results = {"inference.depth": {"ours": [1.0]}, "tiles.monai": entry}
    draw_picture(results, tmp_path / "one.png")
    draw_picture({**results, "tiles.torchio": entry}, tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "one.png").stat().st_size < (tmp_path / "two.png").stat().st_size
    assert read_results(tmp_path / "missing.json") == {}
