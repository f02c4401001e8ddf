"""Work that the workers of a real dask scheduler do."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import dask.config as dask_config
import pytest

from dask_cluster import start
from dense_volumes import write_balls
from experiments.engine import outcomes
from experiments.reproduce import ReproduceOptions, reproduce
from serving import PATIENCE


@pytest.fixture(autouse=True, scope="module")
def patience() -> Iterator[None]:
    with (
        pytest.MonkeyPatch.context() as patch,
        dask_config.set({"distributed.comm.timeouts.connect": f"{PATIENCE}s"}),
    ):
        patch.setattr("lib.commands.dask_workers.TIMEOUT", PATIENCE)
        yield


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a scheduler with two workers."""
    with start(workers=2) as cluster:
        yield cluster.scheduler_address


def test_each_item_is_done_once(scheduler: str) -> None:
    paths = [f"folder/{number}" for number in range(5)]
    assert sorted(outcomes(os.path.basename, paths, None, scheduler)) == ["0", "1", "2", "3", "4"]


def test_workers_make_the_same_table_as_this_process(scheduler: str, tmp_path: Path) -> None:
    write_balls(tmp_path / "balls")
    rows = []
    for name, jobs, dask in (("here", 1, None), ("there", None, scheduler)):
        output = tmp_path / name
        options = ReproduceOptions(
            ("table3",), "small", tmp_path / "balls", "", ["3d_bn"], 1, 2, None, jobs, dask, output
        )
        assert reproduce(options)
        rows.append(json.loads((output / "results/small_2_steps/balls/table3.json").read_text())["rows"])
    assert [row["test"] for row in rows[0]] == [row["test"] for row in rows[1]] == ["ball_1", "ball_2"]
    # The number of threads changes the order of sums, and with it their rounding.
    for here, there in zip(*rows, strict=True):
        assert here["3d_bn"] == pytest.approx(there["3d_bn"], abs=0.03)
