"""Label maps on the grids of images: each voxel stays where it lies in space."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk

from lib.core.errors import InputError
from lib.core.volumes.grids import onto_grid
from lib.core.volumes.reading import read_label_map, write_label_map
from lib.core.volumes.volume import LabelMap, Volume
from saved_volumes import AFFINES, SHAPE, affine_of, misread, numbers


def volume_of(affine, channels=1, slicer_affine=None):
    return Volume(np.zeros((channels, *SHAPE), np.uint8), affine, slicer_affine)


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product([False, True], repeat=3)))
def test_onto_grid_finds_each_voxel_where_it_lies_in_space(name, order, flips):
    affine, truth = AFFINES[name], numbers()
    # numpy turns the array; its new affine is found by tracing four of its voxels back to where they came from.
    places = np.moveaxis(np.indices(SHAPE), 0, -1)
    turned, from_where = truth.transpose(order), places.transpose(*order, 3)
    for axis in range(3):
        if flips[axis]:
            turned, from_where = np.flip(turned, axis), np.flip(from_where, axis)
    first = from_where[0, 0, 0]
    back = np.eye(4)
    back[:3, 3] = first
    back[:3, :3] = np.array([from_where[1, 0, 0], from_where[0, 1, 0], from_where[0, 0, 1]]).T - first[:, None]

    found = onto_grid(LabelMap(turned, (affine @ back).astype(np.float32).astype(np.float64)), volume_of(affine))
    np.testing.assert_array_equal(found, truth)


def test_onto_grid_reverts_what_itk_turned(tmp_path):
    """3D Slicer flips left-handed images; here ITK turns one to a right-handed order of axes."""
    affine, truth = AFFINES["left-handed"], numbers(dtype=np.uint8)
    write_label_map(tmp_path / "label.nii.gz", truth, affine)
    turned = sitk.DICOMOrient(sitk.ReadImage(str(tmp_path / "label.nii.gz")), "PIR")
    sitk.WriteImage(turned, str(tmp_path / "turned.nrrd"))
    label = read_label_map(tmp_path / "turned.nrrd")
    assert label.array.shape != truth.shape
    np.testing.assert_array_equal(onto_grid(label, volume_of(affine)), truth)


@pytest.mark.parametrize("name", AFFINES)
def test_onto_grid_takes_misread_geometry_voxel_by_voxel(name):
    affine, truth = AFFINES[name], numbers()
    volume = volume_of(affine, 2, misread(affine))
    np.testing.assert_array_equal(onto_grid(LabelMap(truth, misread(affine)), volume), truth)
    np.testing.assert_array_equal(onto_grid(LabelMap(truth, affine), volume), truth)
    if name != "sagittal":
        with pytest.raises(InputError):
            onto_grid(LabelMap(truth, misread(affine)), volume_of(affine))


def shifted(affine, by):
    return affine @ np.block([[np.eye(3), np.reshape(by, (3, 1))], [np.zeros(3), 1]])


@pytest.mark.parametrize(
    ("shape", "turn"),
    [
        ((5, 6, 8), np.eye(4)),
        ((6, 5, 7), np.eye(4)),
        (SHAPE, shifted(np.eye(4), (1, 0, 0))),
        (SHAPE, shifted(np.eye(4), (0, 0, 0.5))),
        (SHAPE, np.diag([2, 1, 1, 1])),
        (SHAPE, np.diag([1.05, 1, 1, 1])),
        (SHAPE, np.diag([-1, 1, 1, 1])),
        (SHAPE, affine_of((1, 1, 1), (0, 0, 5), (0, 0, 0))),
    ],
    ids=["size", "order", "one voxel off", "half a voxel off", "voxel size", "voxel size a bit", "mirrored", "rotated"],
)
@pytest.mark.parametrize("slicer_affine", [None, misread(AFFINES["oblique"])], ids=["", "misread"])
def test_other_grids_are_refused_with_both_described(shape, turn, slicer_affine):
    affine = AFFINES["oblique"]
    label = LabelMap(np.zeros(shape, np.uint8), affine @ turn, "label.nii.gz")
    volume = Volume(np.zeros((1, *SHAPE)), affine, slicer_affine, "image.nii.gz")
    with pytest.raises(InputError) as refusal:
        onto_grid(label, volume)
    message = str(refusal.value)
    for text in ("label.nii.gz", "image.nii.gz", str(shape), str(SHAPE), "0.5 × 1.25 × 3", "-12.5, 40.25, 7", "export"):
        assert text in message
