import numpy as np
import pytest

from benchmarks import step
from benchmarks.data import smooth_volume
from benchmarks.timing import BenchmarkOptions, Timings
from lib.core.plan.options import PlanOptions
from lib.core.plan.planning import make_plan
from lib.core.volumes.volume import Volume


def quiet(_: float) -> None:
    pass


def test_both_settings_learn_the_same_task_at_the_same_width() -> None:
    """Our steps, of fewer voxels, see more labelled ones; a run's time counts for the voxels that it learnt."""
    facts = {way: step.prepare_rate(way, "cpu", width=2)(quiet) for way in ("ours", "literal")}
    assert facts["ours"]["done"] > facts["literal"]["done"] > 0
    assert 0 <= facts["ours"]["waited"] < 1


def test_the_literal_setting_is_the_papers_tile_in_full_precision() -> None:
    volume = Volume(smooth_volume((60, 60, 30)), np.eye(4))
    plan = make_plan([volume], step.SCHEME, PlanOptions(width=32), "cpu")
    literal = step.literal(plan)
    assert (literal.tile, literal.half_precision) == ((132, 132, 116), False)
    assert (literal.width, literal.learning_rate, literal.augmentation) == (32, plan.learning_rate, plan.augmentation)


def test_iou_is_taken_after_the_same_labelled_voxels() -> None:
    facts = step.prepare_iou("ours", "cpu", seed=0, voxels=30_000, width=2)(quiet)
    assert facts["steps"] >= 2
    assert 0 <= facts["iou"] < 1


def test_the_papers_training_is_scaled_from_some_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(step.COMPARED_STEPS, "cpu", 2)
    half, full = (step.prepare_paper(half, "cpu", width=2)(quiet) for half in (True, False))
    assert full["precision"] == "torch.float32"
    assert len(half["losses"]) == len(full["losses"]) == 2
    assert half["losses"] == pytest.approx(full["losses"], rel=0.2)


def test_entries_say_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """With runs of known times in place of measured ones."""
    runs = {
        "ours": Timings([0.5, 1.0, 2.0], facts={"done": 1.0, "waited": 0.01}),
        "literal": Timings([4.0, 4.0, 4.0], facts={"done": 1.0}),
    }
    monkeypatch.setattr(step, "measure_sides", lambda *_, **__: runs)
    ((key, entry),) = step.measure([step.RATE], BenchmarkOptions(), lambda _: None)
    assert key == "step.labelled_voxels_per_second"
    assert (entry["ours"], entry["theirs"], entry["ratio"]) == (100_000, 25_000, 4.0)
    assert entry["spread"] == [2.0, 8.0]
    assert entry["runs"]["ours"] == [200_000, 100_000, 50_000]
    facts = {"step_seconds": 0.03, "losses": [1.0, 0.5], "precision": "torch.bfloat16", "waited": 0.0}
    runs = {"half": Timings(facts=facts), "full": Timings(facts={**facts, "losses": [1.0, 0.4]})}
    ((_, entry),) = step.measure([step.PAPER], BenchmarkOptions("cuda"), lambda _: None)
    assert entry["ours"] == pytest.approx(70_000 * 0.03)
    assert entry["ratio"] == pytest.approx(3 * 24 * 60 / 35)
    assert entry["largest_loss_difference"] == pytest.approx(0.25)
