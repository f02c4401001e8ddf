"""Runs that are killed or stopped, and runs that start from the last one's weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ball import MACHINE, SCHEME, Killed, case, run, weights
from lib.core.errors import InputError, Stopped
from lib.core.model.folder import ModelFolder
from lib.core.plan.options import PlanOptions
from lib.core.training.options import TrainingOptions
from lib.core.training.run import train

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("short_epochs")
def test_a_killed_run_continues_where_it_stood(tmp_path: Path) -> None:
    """Network, momentum, schedule and draws continue: the result is that of a run that was never killed."""
    run(tmp_path / "whole", [case()], max_epochs=2)

    def kill(report: dict[str, Any]) -> None:
        if report["epoch"] == 1:
            raise Killed

    folder = ModelFolder(tmp_path / "killed")
    with pytest.raises(Killed):
        train([case()], SCHEME, folder, TrainingOptions(max_epochs=2), PlanOptions(width=2), MACHINE, kill)
    reports: list[dict[str, Any]] = []
    final = run(tmp_path / "killed", [case()], reports, max_epochs=2)
    assert [report["epoch"] for report in reports] == [2]
    assert final["finished"]
    for name, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "killed")[name], value, msg=name)


@pytest.mark.usefixtures("short_epochs")
@pytest.mark.parametrize(("calls", "steps"), [(1, 0), (2, 1), (3, 2), (6, 4)])
def test_a_stopped_run_continues_at_the_very_step(tmp_path: Path, calls: int, steps: int) -> None:
    """Also from the middle of an epoch and from the scores after it: nothing is lost, nothing is done twice."""
    whole = run(tmp_path / "whole", [case()], max_epochs=2)
    folder, asked = ModelFolder(tmp_path / "stopped"), 0

    def raise_if_stopping() -> None:
        nonlocal asked
        # Asked once for the volume, then before each step.
        if asked == calls:
            raise Stopped
        asked += 1

    reports: list[dict[str, Any]] = []
    options = TrainingOptions(max_epochs=2)
    with pytest.raises(Stopped):
        train([case()], SCHEME, folder, options, PlanOptions(width=2), MACHINE, reports.append, raise_if_stopping)
    assert torch.load(folder.checkpoint, weights_only=True)["steps"] == steps
    final = run(folder.path, [case()], reports, max_epochs=2)
    assert [report["epoch"] for report in reports] == [1, 2]
    assert (final["finished"], final["published"]) == (True, True)
    assert final["score"] == pytest.approx(whole["score"], abs=1e-6)
    for name, value in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(folder.path)[name], value, msg=name)


@pytest.mark.usefixtures("short_epochs")
def test_a_run_that_is_stopped_during_its_scores_is_scored_when_it_continues(tmp_path: Path) -> None:
    folder, steps = ModelFolder(tmp_path), 0

    def raise_if_stopping() -> None:
        nonlocal steps
        steps += 1
        if steps > 4:
            raise Stopped

    with pytest.raises(Stopped):
        train(
            [case()],
            SCHEME,
            folder,
            TrainingOptions(max_epochs=1),
            PlanOptions(width=2),
            MACHINE,
            print,
            raise_if_stopping,
        )
    stopped = torch.load(folder.checkpoint, weights_only=True)
    assert (stopped["steps"], stopped["epoch"], stopped["finished"]) == (3, 0, False)
    assert not folder.is_published()
    final = run(tmp_path, [case()], max_epochs=1)
    assert (final["epoch"], final["published"], final["finished"]) == (1, True, True)
    for name, value in stopped["network"].items():
        torch.testing.assert_close(weights(tmp_path)[name], value, msg=name)


@pytest.mark.usefixtures("short_epochs")
def test_a_new_run_starts_from_the_last_weights_unless_afresh(tmp_path: Path) -> None:
    first = run(tmp_path, [case()], max_epochs=2)
    before = weights(tmp_path)["classify.weight"]
    second = run(tmp_path, [case()], max_epochs=1, max_minutes=0.0001)
    assert second["run"] != first["run"]
    assert second["epoch"] == 1
    assert (weights(tmp_path)["classify.weight"] - before).abs().max() < 0.2 * before.abs().max()
    run(tmp_path, [case()], max_epochs=1, start="afresh", seed=9)
    assert (weights(tmp_path)["classify.weight"] - before).abs().max() > 0.2 * before.abs().max()


def test_what_cannot_be_continued_is_started_afresh_and_reported(tmp_path: Path) -> None:
    """Another width, and files that a full disk truncated. The damaged model is kept, too."""
    run(tmp_path, [case()], max_epochs=1, max_minutes=0.0001)
    wider = run(tmp_path, [case()], max_epochs=1, max_minutes=0.0001, width=3)
    assert "started afresh" in wider["message"]
    assert "width" in wider["message"]
    for name in ("checkpoint.pt", "model.pt"):
        (tmp_path / name).write_bytes(b"cut short")
    final = run(tmp_path, [case()], max_epochs=1, max_minutes=0.0001, width=3)
    assert "cannot be read as a model file" in final["message"]
    assert final["published"]
    assert b"cut short" in [path.read_bytes() for path in (tmp_path / "archive").iterdir()]


def test_weights_that_are_not_finite_are_reported_and_not_kept(tmp_path: Path) -> None:
    run(tmp_path, [case()], max_epochs=1, max_minutes=0.0001)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    checkpoint["network"]["classify.bias"].fill_(torch.nan)
    torch.save(checkpoint, tmp_path / "checkpoint.pt")
    before = (tmp_path / "model.pt").read_bytes()
    with pytest.raises(InputError, match=r"aren't finite in epoch 1.*checkpoint\.pt .*start 'afresh'"):
        run(tmp_path, [case()], max_epochs=1, max_minutes=0.0001)
    assert (tmp_path / "model.pt").read_bytes() == before
