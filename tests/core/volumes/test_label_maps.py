"""Reading and writing label maps, against ITK through SimpleITK."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from lib.core.errors import InputError
from lib.core.volumes.formats import FORMATS
from lib.core.volumes.reading import read_label_map, write_label_map
from saved_volumes import AFFINES, NAN, SHAPE, itk_affine, itk_array, numbers, save_nifti


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd"])
def test_label_maps_survive_a_round_trip(tmp_path, name, ending):
    path, affine, array = tmp_path / f"label{ending}", AFFINES[name], numbers(dtype=np.uint8) % 4
    write_label_map(path, array, affine)
    tolerance = 1e-6 * np.abs(affine).max()

    label = read_label_map(path)
    np.testing.assert_array_equal(label.array, array)
    assert label.array.dtype == np.uint8
    np.testing.assert_allclose(label.affine, affine, atol=tolerance)
    np.testing.assert_array_equal(itk_array(path)[0], array)
    np.testing.assert_allclose(itk_affine(path), affine, atol=tolerance)
    if ending != ".nrrd":
        header = nibabel.load(path).header
        assert header["qform_code"] == header["sform_code"] == 1
        np.testing.assert_allclose(header.get_qform(), affine, atol=tolerance)
        np.testing.assert_allclose(header.get_sform(), affine, atol=tolerance)
    assert list(tmp_path.iterdir()) == [path]


def test_label_maps_of_whole_floats(tmp_path):
    label = read_label_map(save_nifti(tmp_path / "label.nii.gz", numbers().astype(np.float32)))
    np.testing.assert_array_equal(label.array, numbers())
    assert label.array.dtype.kind == "i"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (numbers() / 2, "value 0.5 is not a whole number"),
        (np.full(SHAPE, 1e20), "not a whole number"),
        (numbers() - 3, "value -3 is negative"),
        (numbers((*SHAPE, 2)), "2 channels"),
        (NAN, "1 values are NaN"),
    ],
)
def test_bad_label_maps_are_refused_by_name(tmp_path, array, message):
    path = save_nifti(tmp_path / "label.nii.gz", array)
    with pytest.raises(InputError, match=message) as refusal:
        read_label_map(path)
    assert str(path) in str(refusal.value)


def test_label_map_with_unknown_ending_is_refused(tmp_path):
    with pytest.raises(InputError, match="unknown file ending"):
        write_label_map(tmp_path / "label.png", np.zeros(SHAPE, np.uint8), np.eye(4))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [ending for ending, known in FORMATS.items() if known.write])
def test_a_label_map_that_cannot_be_written_says_why(tmp_path: Path, ending: str) -> None:
    write = FORMATS[ending].write
    assert write
    with pytest.raises(FileNotFoundError):
        write(tmp_path / f"no folder/x{ending}", np.zeros((2, 3, 4), np.uint8), np.eye(4))
