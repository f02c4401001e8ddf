"""Runs: what is scored, that interruptions change nothing, and which runs count as finished."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dense_volumes import write_balls
from experiments import methods
from experiments import run as module
from experiments.methods import METHODS, SIZES, Method, OutOfTimeError, cut_slices
from experiments.records import shown_labels
from experiments.run import Run, RunContext, check_runs, finished, perform
from experiments.study import Source, Study, load_study
from lib.core.annotation.slices import AnnotatedSlice
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.plan.options import PlanOptions

TRAINING = {"ball_1": (AnnotatedSlice(0, 9), AnnotatedSlice(1, 10), AnnotatedSlice(2, 6))}
TEST = {"ball_1": (AnnotatedSlice(0, 12), AnnotatedSlice(2, 4)), "ball_2": (AnnotatedSlice(1, 9),)}
NARROW = replace(SIZES["small"], options=PlanOptions(width=2), slice_steps=2)


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    write_balls(tmp_path / "balls")
    source = Source(tmp_path / "balls", "ball", False, tmp_path / "work")
    return RunContext(source, NARROW, tmp_path / "runs", tmp_path / "work")


@pytest.fixture
def study(context: RunContext) -> Study:
    return load_study(context.source)


def a_run(method: str, steps: int = 4) -> Run:
    return Run("table1", "subset_1", method, 0, steps, TRAINING, TEST)


def use(monkeypatch: pytest.MonkeyPatch, segment: Any) -> None:
    """Let the method ``default`` segment by ``segment``, without learning, on the CPU."""
    method = Method("known", lambda *_: None, lambda _task: segment, on_cpu=True)
    monkeypatch.setattr(module, "METHODS", {"default": method})


def test_only_test_slice_voxels_outside_the_training_slices_are_scored(
    context: RunContext, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The segmentation is wrong everywhere except on the test slices, where it is right but for one voxel."""
    wrong = {}
    for name, subject in study.subjects.items():
        dense = np.where(subject.truth == 1, 0, 1).astype(np.uint8)
        for axis, index in TEST.get(name, ()):
            np.moveaxis(dense, axis, 0)[index] = np.take(subject.truth == 1, index, axis=axis)
        for axis, index in TRAINING.get(name, ()):
            np.moveaxis(dense, axis, 0)[index] = np.take(subject.truth != 1, index, axis=axis)
        wrong[name] = dense
    foreground = 0
    for name, places in TEST.items():
        for axis, index in places:
            plane = np.moveaxis(study.subjects[name].truth == 1, axis, 0)[index].copy()
            for other, line in TRAINING.get(name, ()):
                if other != axis:
                    np.moveaxis(plane, other - (other > axis), 0)[line] = False
            foreground += int(plane.sum())
    assert foreground > 20
    wrong["ball_2"][2, 9, 2] = 1
    use(monkeypatch, lambda name, _volume, places: cut_slices(wrong[name], places))
    record = perform(a_run("default"), context)
    assert record["mean_iou"] == pytest.approx(foreground / (foreground + 1))
    assert record["iou"] == {"ball": record["mean_iou"]}
    assert np.array(record["counts"])[1].tolist() == [0, foreground]
    on = 1 - (23 * 19 * 11) / (24 * 20 * 12)
    assert record["labelled_percent"] == pytest.approx(100 * on)


def test_record_keeps_a_slice_as_it_was_segmented(
    context: RunContext, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.random.default_rng(0).integers(0, 2, (24, 20, 12)).astype(np.uint8)
    use(monkeypatch, lambda _name, _volume, places: cut_slices(labels, places))
    record = perform(a_run("default"), context)
    assert json.loads(context.record_of(a_run("default")).read_text()) == json.loads(json.dumps(record))
    # The only test slice across z.
    assert (record["shown"]["volume"], record["shown"]["axis"], record["shown"]["index"]) == ("ball_1", 2, 4)
    np.testing.assert_array_equal(shown_labels(record), labels[:, :, 4])


@pytest.mark.parametrize("method", ["2d_bn", "3d_no_bn", "3d_bn", "default"])
def test_methods_of_the_tables_learn_and_segment(
    method: str, context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    if method == "3d_no_bn":
        # At the method's own learning rate, a network this narrow without batch normalisation diverges for some seeds.
        slower = methods._paper_method("", lambda plan: replace(plan, batch_norm=False, learning_rate=0.005))
        monkeypatch.setattr(module, "METHODS", {method: slower})
    record = perform(a_run(method, steps=40), context)
    assert record["precision"] in ("torch.float32", "torch.bfloat16")
    # Only the ball is bright; an untrained network finds it only by chance.
    assert record["mean_iou"] > 0.5
    # The test slices without the voxels where training slices cross them.
    assert np.sum(record["counts"]) == (20 - 1) * (12 - 1) + (24 - 1) * (20 - 1) + 24 * 12
    assert not context.work_of(a_run(method)).exists()


def test_paper_methods_differ_in_one_thing(context: RunContext, study: Study) -> None:
    volumes = [study.subjects["ball_1"].volume]
    plans = {name: METHODS[name].plan(volumes, study.scheme, NARROW) for name in ("2d_bn", "3d_no_bn", "3d_bn")}
    ours, without, flat = plans["3d_bn"], plans["3d_no_bn"], plans["2d_bn"]
    assert ours is not None
    assert without == replace(ours, batch_norm=False, learning_rate=0.005)
    assert flat == replace(ours, dims=2, tile=methods.WHOLE_SLICE, context=44, learning_rate=0.1)
    assert (ours.statistics, ours.averaging, ours.width) == ("tile", 0.0, 2)


@pytest.mark.parametrize("method", ["2d_bn", "3d_bn"])
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    method: str, context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods, "PIECE", 1)
    whole = perform(a_run(method, steps=3), context)
    context.record_of(a_run(method)).unlink()
    pieces = 0
    while True:
        try:
            # The time is over at once, but each piece is completed.
            record = perform(a_run(method, steps=3), replace(context, until=time.time()))
            break
        except OutOfTimeError:
            pieces += 1
            assert not context.record_of(a_run(method)).exists()
    # A run that has finished training isn't stopped any more.
    assert pieces == (2 if method == "3d_bn" else 5)
    assert record["counts"] == whole["counts"]
    assert record["shown"] == whole["shown"]


def test_commits_and_machines_of_all_pieces_are_recorded(context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "PIECE", 1)
    for commit, machine in (("a", "small"), ("b", "small"), ("a", "large")):
        monkeypatch.setattr(module, "commit", lambda commit=commit: commit)
        monkeypatch.setattr(module, "machine_name", lambda _device, machine=machine: machine)
        with pytest.raises(OutOfTimeError):
            perform(a_run("3d_bn", steps=4), replace(context, until=time.time()))
    record = perform(a_run("3d_bn", steps=4), context)
    assert (record["commit"], record["machine"]) == ("a, b", "small; large")
    # A run that starts again is recorded for the last commit and machine alone.
    record = perform(a_run("3d_bn", steps=3), context)
    assert (record["commit"], record["machine"]) == ("a", "large")


def test_runs_on_the_cpu_are_recorded_as_such(context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.zeros((24, 20, 12), np.uint8)
    use(monkeypatch, lambda _name, _volume, places: cut_slices(labels, places))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")
    record = perform(a_run("default"), replace(context, size=SIZES["paper"]))
    assert "thread(s)" in record["machine"]
    assert record["precision"] is None


def test_a_run_begun_with_other_settings_starts_again(context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "PIECE", 1)
    whole = perform(a_run("3d_bn", steps=2), context)
    context.record_of(a_run("3d_bn")).unlink()
    with pytest.raises(OutOfTimeError):
        perform(a_run("3d_bn", steps=9), replace(context, until=time.time()))
    assert perform(a_run("3d_bn", steps=2), context)["counts"] == whole["counts"]


def test_a_run_whose_work_folder_lost_its_settings_starts_again(
    context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This happens if a process is killed while it clears the folder."""
    monkeypatch.setattr(methods, "PIECE", 1)
    whole = perform(a_run("3d_bn", steps=2), context)
    context.record_of(a_run("3d_bn")).unlink()
    with pytest.raises(OutOfTimeError):
        perform(a_run("3d_bn", steps=9), replace(context, until=time.time()))
    (context.work_of(a_run("3d_bn")) / "settings.json").unlink()
    assert perform(a_run("3d_bn", steps=2), context)["counts"] == whole["counts"]


def test_only_runs_with_the_same_settings_count_as_finished(context: RunContext, study: Study) -> None:
    run = a_run("3d_bn", steps=1)
    assert finished(run, study, context) is None
    record = perform(run, context)
    assert finished(run, study, context) == json.loads(json.dumps(record))
    assert finished(replace(run, steps=2), study, context) is None
    assert finished(replace(run, test={"ball_2": TEST["ball_2"]}), study, context) is None
    wider = replace(context, size=replace(NARROW, options=PlanOptions(width=3)))
    assert finished(run, study, wider) is None
    # Only the 2-D network depends on this setting.
    longer = replace(context, size=replace(NARROW, slice_steps=3))
    assert finished(run, study, longer) is not None
    flat = a_run("2d_bn", steps=1)
    perform(flat, context)
    assert finished(flat, study, context) is not None
    assert finished(flat, study, longer) is None


def test_runs_with_other_class_names_or_voxels_do_not_count_as_finished(
    context: RunContext, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.zeros((24, 20, 12), np.uint8)
    use(monkeypatch, lambda _name, _volume, places: cut_slices(labels, places))
    perform(a_run("default"), context)
    assert finished(a_run("default"), study, context) is not None
    assert finished(a_run("default"), replace(study, scheme=LabelScheme(("cell",), "outside")), context) is None
    stretched = {
        name: replace(subject, volume=replace(subject.volume, affine=subject.volume.affine * 2))
        for name, subject in study.subjects.items()
    }
    assert finished(a_run("default"), replace(study, subjects=stretched), context) is None


def test_runs_that_would_fail_are_refused_before_the_first_run(study: Study) -> None:
    check_runs([a_run("3d_bn")], study)
    corner = {"ball_1": (AnnotatedSlice(2, 0),)}
    for training in (corner, {"ball_1": ()}):
        with pytest.raises(InputError, match=r"table1-subset_1: .*a single class or none"):
            check_runs([a_run("3d_bn"), replace(a_run("3d_bn"), training=training)], study)
    # All foreground voxels there lie on training slices.
    for test in (corner, {"ball_1": ()}, TRAINING):
        with pytest.raises(InputError, match="no foreground on the test slices"):
            check_runs([replace(a_run("3d_bn"), test=test)], study)
