"""Which statistics of batch normalisation a run chooses."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ball import MACHINE, SCHEME, Killed, case, run
from lib.core.model.folder import ModelFolder
from lib.core.plan.options import PlanOptions
from lib.core.plan.plan import Plan
from lib.core.training import publishing
from lib.core.training import run as training
from lib.core.training.cases import TrainingCase
from lib.core.training.options import TrainingOptions
from lib.core.training.run import train
from lib.core.training.score import Score

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("short_epochs")
def test_statistics_are_chosen_by_score_unless_a_person_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = {"mixed": [5] * 8, "volume": [9] * 8, "running": [7] * 8}
    scored: list[str] = []

    def score_by_statistics(network: Any, plan: Plan, *_: Any) -> Score:
        scored.append(plan.statistics)
        return Score(np.array([[[10, 0], [10 - found, found]] for found in right[plan.statistics]]), SCHEME)

    for module in (training, publishing):
        monkeypatch.setattr(module, "score_network", score_by_statistics)

    def chosen(cases: Sequence[TrainingCase], epochs: int, **options: Any) -> str:
        scored.clear()
        final = run(tmp_path, cases, max_epochs=epochs, **options)
        model = ModelFolder(tmp_path).load(SCHEME)
        assert final["score"] == model.score == sum(right[model.plan.statistics]) / 80
        return model.plan.statistics

    two = [case(), case("b", (8, 5, 6))]
    assert chosen(two, 9) == "volume"
    # All are compared after epoch 8.
    assert scored == [*["mixed"] * 8, "volume", "running", "volume"]

    # A new training begins with the choice of the last one, and goes back if that has become better. Since it is short,
    # it compares them at its end.
    right["mixed"] = [10] * 8
    assert chosen(two, 2) == "mixed"
    assert scored == ["volume", "volume", "volume", "mixed", "running"]
    # Lower in two of three resamplings: not credible.
    right["mixed"] = [10] * 7 + [9]
    right["running"] = [10] * 8
    assert chosen(two, 2) == "mixed"
    # One volume can't show whether the averages of training suit others.
    right["mixed"] = [5] * 8
    assert chosen([case()], 2, start="afresh") == "volume"
    assert "running" not in scored
    assert chosen(two, 2, start="afresh") == "running"

    right["mixed"] = [10] * 8
    assert chosen(two, 2, statistics="running") == "running"
    assert set(scored) == {"running"}


@pytest.mark.usefixtures("short_epochs")
def test_statistics_are_not_chosen_by_what_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[str] = []

    def score(network: Any, plan: Plan, *_: Any) -> Score:
        scored.append(plan.statistics)
        return Score(np.array([[[10, 0], [5, 5]]]), SCHEME)

    monkeypatch.setattr(training, "score_network", score)
    few = case(slices=[(axis, 6) for axis in range(3)])
    assert run(tmp_path, [few], max_epochs=2)["metric"] == "training IoU"
    assert set(scored) == {"mixed"}


@pytest.mark.usefixtures("short_epochs")
def test_a_run_that_was_killed_compares_statistics_as_often_as_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[tuple[int, str]] = []
    reports: list[dict[str, Any]] = []

    def note(network: Any, plan: Plan, *_: Any) -> Score:
        scored.append((len(reports) + 1, plan.statistics))
        return Score(np.array([[[10, 0], [5, 5]]] * 8), SCHEME)

    for module in (training, publishing):
        monkeypatch.setattr(module, "score_network", note)
    # A checkpoint after each epoch.
    monkeypatch.setattr(training, "SAVING_SHARE", math.inf)

    def kill(report: dict[str, Any]) -> None:
        reports.append(report)
        if report["epoch"] in (1, 4, 8, 10):
            raise Killed

    def go_on() -> None:
        options = PlanOptions(width=2)
        train([case()], SCHEME, ModelFolder(tmp_path), TrainingOptions(max_epochs=12), options, MACHINE, kill)

    for _ in range(4):
        with pytest.raises(Killed):
            go_on()
    go_on()
    assert [report["epoch"] for report in reports] == list(range(1, 13))
    assert [epoch for epoch, statistics in scored if statistics == "volume"] == [8]
