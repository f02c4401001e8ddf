"""Scores against plain counts of voxels, scipy's distance transform and MONAI's own functions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

from lib.core.errors import InputError
from lib.core.evaluation import ABSENT, evaluate, evaluate_files, mean_scores, pair_files
from painted import structures
from saved_volumes import AFFINES, affine_of, save_nifti
from serving import scaled

SPACING = (0.5, 1.25, 3.0)


def pair(shape: tuple[int, ...] = (24, 20, 16)) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A label with 0 for the background, and a prediction that is wrong in places."""
    label = structures(shape) % 3
    return np.roll(label, (1, -1, 2), (0, 1, 2)), label


def distances(predicted: NDArray[np.bool_], labelled: NDArray[np.bool_]) -> tuple[NDArray[np.float64], ...]:
    """From each set's surface voxels to the other's, by a distance transform of the whole volume."""
    one, other = (part & ~binary_erosion(part) for part in (predicted, labelled))
    there = distance_transform_edt(~other, sampling=SPACING)[one]
    back = distance_transform_edt(~one, sampling=SPACING)[other]
    return there, back


def test_other_shapes_are_refused_even_if_numpy_would_repeat_the_smaller_one() -> None:
    _, label = pair()
    with pytest.raises(InputError, match=r"has shape \(1, 20, 16\), the label \(24, 20, 16\)"):
        evaluate(label[:1], label, SPACING)


@pytest.mark.parametrize("turn", [1, -1])
def test_scores_against_independent_ones(turn: int) -> None:
    prediction, label = pair()[::turn]
    # Far from anything else, so that the distances of the two directions differ.
    label[:2, :2, :2] = 1
    scores = evaluate(prediction, label, SPACING)
    assert list(scores) == [1, 2]
    for value, of in scores.items():
        one, other = prediction == value, label == value
        assert of["iou"] == (one & other).sum() / (one | other).sum()
        assert of["dice"] == 2 * (one & other).sum() / (one.sum() + other.sum())
        assert of["predicted_voxels"], of["labelled_voxels"] == (one.sum(), other.sum())
        assert of["common_voxels"] == (one & other).sum()
        there, back = distances(one, other)
        assert of["assd_mm"] == pytest.approx(np.concatenate([there, back]).mean(), rel=1e-6)
        assert of["hd95_mm"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-6)


def test_distances_are_those_of_monai() -> None:
    prediction, label = pair()
    one, other = (torch.from_numpy(part == 1)[None, None] for part in (prediction, label))
    (scores,) = evaluate(prediction, label, SPACING, classes=[1]).values()
    assd = compute_average_surface_distance(one, other, include_background=True, symmetric=True, spacing=SPACING)
    hd95 = compute_hausdorff_distance(one, other, include_background=True, percentile=95, spacing=SPACING)
    assert (scores["assd_mm"], scores["hd95_mm"]) == pytest.approx((assd.item(), hd95.item()), rel=1e-6)


def test_a_shift_along_the_coarse_axis_is_that_long() -> None:
    label = np.zeros((9, 9, 9), np.uint8)
    label[2:7, 2:7, 4] = 1
    (scores,) = evaluate(np.roll(label, 1, 2), label, SPACING).values()
    assert (scores["assd_mm"], scores["hd95_mm"]) == (3.0, 3.0)
    assert scores["iou"] == 0


def test_what_is_absent_has_no_score() -> None:
    label = np.zeros((6, 6, 6), np.uint8)
    label[2:4, 2:4, 2:4] = 1
    nothing = np.zeros_like(label)
    for prediction, truth in ((label, nothing), (nothing, label)):
        (scores,) = evaluate(prediction, truth, SPACING).values()
        assert (scores["iou"], scores["dice"], scores["assd_mm"], scores["hd95_mm"]) == (0, 0, None, None)
    assert evaluate(nothing, nothing, SPACING) == {}
    assert evaluate(nothing, nothing, SPACING, classes=[1]) == {1: ABSENT}


def test_ignored_voxels_do_not_count() -> None:
    prediction, label = pair()
    known = np.random.default_rng(0).random(label.shape) < 0.3
    scores = evaluate(prediction, np.where(known, label, 255), SPACING, ignore=255)
    assert list(scores) == [1, 2]
    for value, of in scores.items():
        one, other = (prediction == value)[known], (label == value)[known]
        assert of["iou"] == (one & other).sum() / (one | other).sum()
        assert of["predicted_voxels"] == one.sum()
        # Their surfaces lie partly in ignored voxels.
        assert of["assd_mm"] is of["hd95_mm"] is None


def test_surfaces_away_from_ignored_voxels_are_compared() -> None:
    label = np.zeros((12, 9, 9), np.uint8)
    label[2:5, 2:7, 2:7] = 1
    prediction = np.roll(label, 1, 0)
    whole = evaluate(prediction, label, SPACING)
    label[10:] = 255
    prediction[11] = 1
    assert evaluate(prediction, label, SPACING, ignore=255) == whole


def test_the_label_is_brought_onto_the_grid_of_the_prediction(tmp_path: Path) -> None:
    prediction, label = pair((9, 8, 7))
    affine = affine_of(SPACING)
    flipped = affine @ np.array([[-1, 0, 0, 8], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    one = save_nifti(tmp_path / "p.nii.gz", prediction, affine)
    other = save_nifti(tmp_path / "l.nii.gz", label[::-1], flipped)
    found = evaluate_files(one, other, classes=("a", "b"))
    assert list(found) == ["a", "b"]
    for scores, expected in zip(found.values(), evaluate(prediction, label, SPACING).values(), strict=True):
        assert scores == pytest.approx(expected)


def test_another_grid_is_refused(tmp_path: Path) -> None:
    prediction, label = pair((9, 8, 7))
    one = save_nifti(tmp_path / "p.nii.gz", prediction, AFFINES["straight"])
    other = save_nifti(tmp_path / "l.nii.gz", label, AFFINES["oblique"])
    with pytest.raises(InputError, match=r"l\.nii\.gz: the label map .* does not lie on the grid of .*p\.nii\.gz"):
        evaluate_files(one, other)


@pytest.mark.parametrize("wrong", ["prediction", "label"])
def test_values_that_are_no_class_are_refused(tmp_path: Path, wrong: str) -> None:
    for name in ("prediction", "label"):
        array = np.full((4, 4, 4), 1, np.uint8)
        array[0, 0, 0] = 3 if name == wrong else 0
        save_nifti(tmp_path / f"{name}.nii.gz", array)
    with pytest.raises(InputError, match=rf"{wrong}\.nii\.gz: has voxels of value 3, but there are 2 classes \(a, b\)"):
        evaluate_files(tmp_path / "prediction.nii.gz", tmp_path / "label.nii.gz", classes=("a", "b"))


def test_annotations_of_this_software(tmp_path: Path) -> None:
    prediction, label = pair()
    annotation = np.where(label == 0, 3, label)
    annotation[:, :, ::2] = 0
    one = save_nifti(tmp_path / "p.nii.gz", prediction, scaled(*SPACING))
    other = save_nifti(tmp_path / "l.nii.gz", annotation, scaled(*SPACING))
    found = evaluate_files(one, other, ignore=0, classes=("inside", "tubule"))
    for value, scores in enumerate(found.values(), start=1):
        a, b = (part[:, :, 1::2] == value for part in (prediction, label))
        assert scores["iou"] == (a & b).sum() / (a | b).sum()


def test_means_are_over_the_volumes_with_a_score() -> None:
    prediction, label = pair()
    first = {"a": evaluate(prediction, label, SPACING)[1]}
    second = {"a": evaluate(prediction, label * 0, SPACING)[1]}
    mean = mean_scores([first, second])["a"]
    assert mean["assd_mm"] == first["a"]["assd_mm"]
    assert mean["iou"] == (first["a"]["iou"] or 0) / 2
    assert mean_scores([{"a": ABSENT}])["a"]["iou"] is None


def test_pairs_of_files(tmp_path: Path) -> None:
    for name in (
        "p/a.nii.gz",
        "p/b.nrrd",
        "p/c.mha",
        "p/c.nrrd",
        "p/only.mha",
        "p/x.txt",
        "l/a.nrrd",
        "l/b.nrrd",
        "l/c.mha",
        "l/d.mha",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    pairs, faults = pair_files(tmp_path / "p", tmp_path / "l")
    assert pairs == {
        name: (tmp_path / "p" / p, tmp_path / "l" / n)
        for name, p, n in (("a", "a.nii.gz", "a.nrrd"), ("b", "b.nrrd", "b.nrrd"))
    }
    assert [fault.split(": ")[0] for fault in faults] == ["c", str(tmp_path / "l/d.mha")]
    assert pair_files(tmp_path / "p/a.nii.gz", tmp_path / "l/b.nrrd")[0] == {
        "a": (tmp_path / "p/a.nii.gz", tmp_path / "l/b.nrrd")
    }
    (tmp_path / "empty").mkdir()
    for predictions, labels, said in (
        ("p", "l/b.nrrd", "give two label maps, or two folders"),
        ("p", "empty", "no label map has the name of one in"),
        ("p", "missing", "missing: no such file or folder"),
    ):
        with pytest.raises(InputError, match=said):
            pair_files(tmp_path / predictions, tmp_path / labels)
