import nibabel
import numpy as np
import pytest

from lib.core.labels import LabelScheme
from lib.core.volumes.volume import Volume
from lib.simulation.annotator import choose_slices, export_like_slicer, paint_slices, truth_as_annotation

SCHEME = LabelScheme(("inside", "tubule"), "outside")


def block(shape, low, high):
    truth = np.zeros(shape, np.uint8)
    truth[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = 1
    return truth


def test_dense_truth_becomes_annotation_with_painted_background():
    assert truth_as_annotation(np.array([0, 1, 2]), SCHEME).tolist() == [3, 1, 2]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_slices_are_spread_evenly_over_the_foreground(count, seed):
    truth = block((40, 60, 30), (10, 5, 3), (30, 55, 25))
    for axis, (low, high) in enumerate([(10, 30), (5, 55), (3, 25)]):
        chosen = choose_slices(truth, axis, count, np.random.default_rng(seed))
        part = (high - low) / count
        assert len(chosen) == count
        for number, index in enumerate(chosen):
            # Each lies in the middle half of its own part of the foreground.
            assert low + part * (number + 0.25) - 0.5 <= index <= low + part * (number + 0.75) - 0.5


def test_slices_showing_more_classes_are_preferred():
    truth = block((40, 8, 8), (0, 2, 2), (40, 6, 6))
    truth[14, 4, 4] = 2
    for seed in range(10):
        assert choose_slices(truth, 0, 1, np.random.default_rng(seed)) == [14]


def test_seed_decides_and_thin_foreground_gives_fewer_slices():
    truth = block((64, 8, 8), (0, 2, 2), (64, 6, 3))
    chosen = {tuple(choose_slices(truth, 0, 2, np.random.default_rng(seed))) for seed in range(8)}
    assert len(chosen) > 1
    assert choose_slices(truth, 0, 2, np.random.default_rng(5)) == choose_slices(truth, 0, 2, np.random.default_rng(5))
    assert choose_slices(truth, 2, 3, np.random.default_rng(0)) == [2]


def test_volume_without_foreground_is_annotated_too():
    assert len(choose_slices(np.zeros((9, 9, 9), np.uint8), 1, 3, np.random.default_rng(0))) == 3


def test_whole_planes_are_painted_and_nothing_else():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (12, 10, 8))
    annotation = paint_slices(truth, SCHEME, 2, np.random.default_rng(1))
    again = np.random.default_rng(1)
    planes = [choose_slices(truth, axis, 2, again) for axis in range(3)]
    for x, y, z in np.ndindex(truth.shape):
        on_plane = x in planes[0] or y in planes[1] or z in planes[2]
        assert annotation[x, y, z] == (({0: 3, 1: 1, 2: 2}[truth[x, y, z]]) if on_plane else 0)


@pytest.mark.parametrize("misread", [False, True])
def test_export_holds_positions_of_segments_on_slicers_grid(tmp_path, misread):
    affine = np.array([[0, -2, 0, 5], [1, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1.0]])
    slicer_affine = np.diag([-1, -2, 3, 1.0]) if misread else None
    volume = Volume(np.zeros((1, 2, 2, 1)), affine, slicer_affine)
    annotation = np.array([[[0], [1]], [[2], [3]]], np.uint8)
    segments = ["inside (predicted)", "tubule (predicted)", "annotate here", "inside", "tubule", "outside"]
    params = export_like_slicer(tmp_path / "label.nii.gz", annotation, volume, SCHEME, segments)
    stored = nibabel.load(tmp_path / "label.nii.gz")
    assert stored.get_data_dtype() == np.int16
    assert np.asanyarray(stored.dataobj)[..., 0].tolist() == [[0, 4], [5, 6]]
    np.testing.assert_allclose(stored.affine, slicer_affine if misread else affine)
    assert params["label_info"][4] == {"name": "tubule", "idx": 5}
