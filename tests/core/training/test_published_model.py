"""Which models a run replaces, and which it keeps."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ball import MACHINE, SCHEME, case, run
from lib.core.model.folder import ModelFolder
from lib.core.plan.options import PlanOptions
from lib.core.plan.planning import make_plan
from lib.core.training import run as training
from lib.core.training.options import TrainingOptions
from lib.core.training.run import train

pytestmark = pytest.mark.slow


def test_a_published_model_is_replaced_only_by_one_as_good_on_the_same_slices(tmp_path: Path) -> None:
    good = run(tmp_path, [case()], max_epochs=5)
    assert good["best_metric"] > 0.5
    before = (tmp_path / "model.pt").read_bytes()
    poor = run(tmp_path, [case()], max_epochs=1, max_minutes=0.0001, start="afresh", seed=1)
    assert not poor["published"]
    assert poor["score"] < poor["best_metric"] == pytest.approx(good["best_metric"], abs=1e-6)
    assert "is kept, since it is better" in poor["message"]
    assert (tmp_path / "model.pt").read_bytes() == before
    assert not (tmp_path / "archive").exists()


def test_a_model_that_another_training_published_meanwhile_is_not_replaced_by_a_poorer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "other", [case()], max_epochs=5)
    ours = tmp_path / "ours"

    def publish_other(report: dict[str, Any]) -> None:
        # This training began when there was no model, and has published its own by now.
        if report["epoch"] == 3:
            assert report["published"]
            shutil.copyfile(tmp_path / "other/model.pt", ours / "model.pt")
        reports.append(report)

    reports: list[dict[str, Any]] = []
    options = TrainingOptions(max_epochs=4)
    # It learns next to nothing.
    monkeypatch.setattr(training, "make_plan", lambda *given: replace(make_plan(*given), learning_rate=1e-9))
    train([case()], SCHEME, ModelFolder(ours), options, PlanOptions(width=2), MACHINE, publish_other)
    assert reports[-1]["score"] < reports[-1]["best_metric"]
    assert not reports[-1]["published"]
    assert "is kept, since it is better" in reports[-1]["message"]
    assert (ours / "model.pt").read_bytes() == (tmp_path / "other/model.pt").read_bytes()


def test_if_the_published_model_is_taken_away_meanwhile_the_next_one_is_published(tmp_path: Path) -> None:
    run(tmp_path, [case()], max_epochs=5)

    def take_away(report: dict[str, Any]) -> None:
        if report["epoch"] == 1:
            (tmp_path / "model.pt").unlink()

    options = TrainingOptions(max_epochs=2, start="afresh", seed=1)
    final = train([case()], SCHEME, ModelFolder(tmp_path), options, PlanOptions(width=2), MACHINE, take_away)
    assert final["published"]
    assert ModelFolder(tmp_path).load(SCHEME).run == final["run"]


def test_a_model_published_before_the_kill_is_not_replaced_by_a_poorer_one(tmp_path: Path) -> None:
    """Killed between publishing and the checkpoint, a run finds its own, better model when it continues."""
    run(tmp_path, [case()], max_epochs=3)
    good = ModelFolder(tmp_path).load(SCHEME)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    for value in checkpoint["network"].values():
        value.zero_()
    torch.save({**checkpoint, "epoch": 1, "finished": False}, tmp_path / "checkpoint.pt")
    final = run(tmp_path, [case()], max_epochs=2)
    assert final["run"] == good.run
    assert final["score"] < final["best_metric"] == pytest.approx(good.score, abs=1e-6)
    assert ModelFolder(tmp_path).load(SCHEME).epoch == good.epoch
