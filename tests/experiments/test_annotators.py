"""Simulated annotators: what is learnt from which slices, and what is recorded."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dense_volumes import write_balls
from devices import on_each_device
from experiments import annotators
from experiments.annotators import DENSE, Game, Schedule, boundary_lengths, iou_elsewhere, play
from experiments.strategies import STRATEGIES, StrategyInput
from experiments.study import Source, Subject, load_study
from lib.core.annotation.slices import AnnotatedSlice
from lib.core.labels import LabelScheme
from lib.core.training import learner

SHORT = Schedule(first_steps=2, steps=1, most_slices=6)


def part_of_the_ball(subject: Subject, places: list[list[int]]) -> float:
    """Count the voxels of the ball that lie in slices, voxel by voxel."""
    ball = [tuple(voxel) for voxel in np.argwhere(subject.truth == 1)]
    return round(sum(any(voxel[axis] == index for axis, index in places) for voxel in ball) / len(ball), 4)


@pytest.mark.usefixtures("small_network")
def test_a_game_is_repeatable_and_begins_alike_for_all(tmp_path: Path) -> None:
    write_balls(tmp_path)
    study = load_study(Source(tmp_path, "ball", False, tmp_path))
    subject = study.subjects["ball_1"]
    first, again, other = (
        play(subject, study.scheme, Game(strategy, 1), SHORT, "cpu")
        for strategy in ("random", "random", "evenly_spaced")
    )
    timed = {"seconds", "commit"}
    assert {key: first[key] for key in first.keys() - timed} == {key: again[key] for key in again.keys() - timed}
    assert first["slices"] == [3, 4, 5, 6]
    assert first["places"][:3] == other["places"][:3]
    assert first["iou"][0] == other["iou"][0]
    assert play(subject, study.scheme, Game("random", 2), SHORT, "cpu")["places"] != first["places"]
    assert len(first["iou_unannotated"]) == 4
    for record in (first, other):
        assert record["foreground"] == [part_of_the_ball(subject, record["places"][:count]) for count in (3, 4, 5, 6)]
    dense = play(subject, study.scheme, Game(DENSE, 1), SHORT, "cpu")
    # It trains on all voxels, for the steps that others train for with the same number of slices.
    assert dense["slices"] == first["slices"]
    assert dense["places"] == first["places"][:3]
    assert dense["foreground"] == [1, 1, 1, 1]


@pytest.mark.usefixtures("small_network")
def test_a_game_does_not_depend_on_which_precision_is_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_balls(tmp_path)
    study = load_study(Source(tmp_path, "ball", False, tmp_path))
    curves = []
    for faster in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(learner, "half_precision_of", lambda _, faster=faster: faster)
        curves.append(play(study.subjects["ball_1"], study.scheme, Game("random", 1), SHORT, "cpu")["iou"])
    assert curves[0] == curves[1]


@pytest.mark.usefixtures("small_network")
def test_strategies_know_how_far_the_game_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_balls(tmp_path)
    study = load_study(Source(tmp_path, "ball", False, tmp_path))
    subject, progress = study.subjects["ball_1"], []

    def choose(known: StrategyInput) -> AnnotatedSlice:
        progress.append(known.progress)
        assert known.truth is subject.truth
        return STRATEGIES["random"](known)

    monkeypatch.setattr(annotators, "STRATEGIES", {"recording": choose})
    for most in (6, 4):
        play(subject, study.scheme, Game("recording", 1), Schedule(1, 1, most), "cpu")
    assert progress == [0, 0.5, 1, 0]


@on_each_device
def test_more_training_and_slices_lead_to_the_ball(tmp_path: Path, device: str) -> None:
    write_balls(tmp_path)
    study = load_study(Source(tmp_path, "ball", False, tmp_path))
    schedule = Schedule(first_steps=10, steps=10, most_slices=7)
    record = play(study.subjects["ball_1"], study.scheme, Game("evenly_spaced", 0), schedule, device)
    assert record["iou"][-1] > 0.6
    assert record["iou_unannotated"][-1] > 0.5
    assert record["iou_unannotated"] != record["iou"]


def test_iou_elsewhere_is_of_the_voxels_of_all_classes_that_are_not_annotated() -> None:
    """All of class a is annotated; of the unannotated voxels of class b, one of three is found."""
    scheme = LabelScheme(("a", "b"), "outside")
    truth = np.array([1, 1, 2, 2, 2, 3, 3, 0], np.uint8).reshape(2, 2, 2)
    annotation = np.array([1, 1, 0, 0, 0, 0, 3, 0], np.uint8).reshape(2, 2, 2)
    labels = np.array([2, 2, 2, 0, 1, 1, 1, 1], np.uint8).reshape(2, 2, 2)
    # Intersection: one voxel of b. Union: three voxels of b, and two that are segmented as a.
    assert iou_elsewhere(labels, truth, annotation, scheme) == pytest.approx(1 / 5)
    assert iou_elsewhere(np.zeros_like(labels), truth, truth, scheme) == 1


def test_boundary_lengths_are_counted_pair_by_pair() -> None:
    labels = np.random.default_rng(0).integers(0, 3, (4, 5, 3)).astype(np.uint8)
    for axis in range(3):
        planes = np.moveaxis(labels, axis, 0)
        expected = [
            sum(plane[i, j] != plane[i + 1, j] for i in range(plane.shape[0] - 1) for j in range(plane.shape[1]))
            + sum(plane[i, j] != plane[i, j + 1] for i in range(plane.shape[0]) for j in range(plane.shape[1] - 1))
            for plane in planes
        ]
        assert boundary_lengths(labels, axis).tolist() == expected
