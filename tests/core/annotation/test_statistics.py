import json
import tracemalloc

import numpy as np
import pytest

from lib.core.annotation.slices import AnnotatedSlice, keep_slices
from lib.core.annotation.statistics import annotation_statistics, learnable_classes
from lib.core.labels import LabelScheme
from painted import structures

SCHEME = LabelScheme(("inside", "tubule"), "outside")


@pytest.mark.parametrize(("dense", "most"), [(False, 1.0), (True, 4.0)])
def test_statistics_take_little_more_memory_than_the_annotation(dense, most):
    painted = np.zeros((120, 110, 100), np.uint8)
    painted[:: 1 if dense else 70] = 1
    tracemalloc.start()
    annotation_statistics(painted, SCHEME)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < most * painted.nbytes


def test_learnable_classes():
    slices = np.zeros((20, 20, 20), np.uint8)
    slices[3, 2:18, 2:18] = 1
    stroke = np.zeros_like(slices)
    stroke[3, 2:9, 5] = 2
    both = annotation_statistics(np.maximum(slices, stroke), SCHEME)
    assert learnable_classes(both, SCHEME, "unlabelled") == {"inside", "tubule"}
    assert learnable_classes(both, SCHEME, "background") == {"inside", "tubule", "outside"}
    assert learnable_classes(annotation_statistics(stroke, SCHEME), SCHEME, "background") == {"tubule"}


def test_annotation_statistics():
    painted = keep_slices(structures((48, 40, 24)), [AnnotatedSlice(0, 5), AnnotatedSlice(2, 7), AnnotatedSlice(2, 9)])
    found = json.loads(json.dumps(annotation_statistics(painted, SCHEME)))
    voxels = painted.ravel().tolist()
    assert found == {
        "labelled_voxels": len(voxels) - voxels.count(0),
        "labelled_percent": pytest.approx(100 * (1 - voxels.count(0) / len(voxels))),
        "voxels": {"inside": voxels.count(1), "tubule": voxels.count(2), "outside": voxels.count(3)},
        "annotated_slices": [[5], [], [7, 9]],
        "whole_slices": [[5], [], [7, 9]],
        "mostly_unpainted": [[], [], []],
    }


def test_annotated_slices_with_little_paint():
    annotation = np.zeros((40, 40, 20), np.uint8)
    annotation[10:15, 10:17, 4] = 1
    annotation[10:19, 10:19, 9] = 1
    found = annotation_statistics(annotation, SCHEME)
    assert found["annotated_slices"] == [[], [], [4, 9]]
    # 35 of 1600 voxels, and 81.
    assert found["mostly_unpainted"] == [[], [], [4]]
