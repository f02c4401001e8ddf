"""Scores on single voxels, compared with those of a segmentation of the whole volume."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.core.annotation.paint import Paint
from lib.core.annotation.slices import AnnotatedSlice, keep_slices
from lib.core.data.large_image import LargeImage
from lib.core.data.preparation import PreparedImage
from lib.core.device.machine import Machine
from lib.core.inference.segmenter import Segmenter
from lib.core.labels import LabelScheme
from lib.core.metrics import confusion, iou_per_class, mean_iou
from lib.core.model.model import build_network
from lib.core.plan.plan import Plan
from lib.core.training import evaluation
from lib.core.training.evaluation import ScoredRegion, score_network
from lib.core.volumes.volume import Volume

SCHEME = LabelScheme(("ball", "shell"), "outside")
PLAN = Plan(SCHEME, 1, None, width=2, tile=(132, 132, 116), test_tile=(164, 132, 116))
SLICES = [AnnotatedSlice(0, 33), AnnotatedSlice(1, 5), AnnotatedSlice(2, 7)]


@pytest.mark.parametrize("spacing", [None, (2.0, 1.0, 1.5)])
def test_scores_are_those_of_the_whole_segmentation(spacing: tuple[float, ...] | None) -> None:
    """On crossing slices and a separate stroke, in two images together."""
    plan, machine = replace(PLAN, spacing=spacing), Machine("cpu", 10**9)
    torch.manual_seed(1)
    network = build_network(plan).eval()
    torch.nn.init.normal_(network.classify.weight, std=5)
    generator = np.random.default_rng(0)
    regions, counts = [], np.zeros((3, 3), np.int64)
    for shape in ((70, 20, 12), (30, 28, 20)):
        volume = Volume(generator.normal(size=(1, *shape)).astype(np.float32), np.eye(4))
        dense = generator.integers(1, 4, shape).astype(np.uint8)
        slices = [place for place in SLICES if place.index < shape[place.axis]]
        annotation = keep_slices(dense, slices)
        annotation[4:9, 2, 3] = 1
        regions.append(ScoredRegion.of(PreparedImage.of(volume, plan), Paint(annotation), slices[:2]))
        counts += confusion(Segmenter(network, plan).segment(volume, machine), annotation, SCHEME)
    expected = iou_per_class(counts, SCHEME)
    score = score_network(network, plan, torch.float32, regions, machine)
    assert score.mean == pytest.approx(mean_iou(expected), abs=0.005)
    assert score.per_class == pytest.approx(expected, abs=0.005)
    assert min(score.per_class.values()) > 0.05


def test_each_voxel_is_scored_once_with_the_slice_it_lies_on() -> None:
    volume = Volume(np.zeros((1, 70, 20, 12), np.float32), np.eye(4))
    annotation = keep_slices(np.full(volume.shape, 2, np.uint8), SLICES)
    annotation[1, 1, 1] = 3
    one = ScoredRegion.of(PreparedImage.of(volume, PLAN), Paint(annotation), SLICES)
    found = np.zeros_like(annotation)
    for place, values in one.parts:
        assert not found[place].any()
        found[place] = values
    np.testing.assert_array_equal(found, annotation)
    # Three slices and the rest.
    assert len(one.parts) == 4
    assert [len(set(place[axis])) for (place, _), (axis, _) in zip(one.parts, SLICES, strict=False)] == [1, 1, 1]


@pytest.mark.parametrize("large", [False, True])
def test_strokes_are_scored_in_cubes(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However the image is prepared: scores of two plans, which are compared, have the same units."""
    monkeypatch.setattr(evaluation, "CUBE", 8)
    volume = Volume(np.zeros((1, 70, 20, 12), np.float32), np.eye(4))
    annotation = keep_slices(np.full(volume.shape, 2, np.uint8), SLICES[:1])
    for x, y, z in ((0, 0, 0), (7, 7, 7), (8, 7, 7), (69, 19, 11)):
        annotation[x, y, z] = 3
    image = LargeImage(volume, PLAN) if large else PreparedImage.of(volume, PLAN)
    one = ScoredRegion.of(image, Paint(annotation), SLICES[:1])
    found = np.zeros_like(annotation)
    for place, values in one.parts:
        found[place] = values
    np.testing.assert_array_equal(found, annotation)
    boxes = [np.ptp(np.stack(place), axis=1).tolist() for place, _ in one.parts[1:]]
    assert sorted(boxes) == [[0, 0, 0], [0, 0, 0], [7, 7, 7]]
