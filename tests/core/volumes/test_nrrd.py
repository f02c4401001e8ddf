"""NRRD files against ITK, the library that 3D Slicer reads files with, through SimpleITK."""

import nrrd
import numpy as np
import pytest

from lib.core.errors import InputError
from lib.core.volumes.reading import read_volume
from saved_volumes import AFFINES, RAS, SHAPE, itk_affine, itk_array, numbers


@pytest.mark.parametrize(
    "space", ["left-posterior-superior", "LPS", "RAS", "left-anterior-superior", "LAS", "scanner-xyz", None]
)
@pytest.mark.parametrize("name", ["oblique", "left-handed"])
def test_spaces_of_nrrd(tmp_path, space, name):
    affine = AFFINES[name]
    header = {"space": space} if space else {"space dimension": 3}
    header |= {"space directions": affine[:3, :3].T, "space origin": affine[:3, 3]}
    nrrd.write(str(tmp_path / "image.nrrd"), numbers(), header)
    volume = read_volume(tmp_path / "image.nrrd")
    np.testing.assert_array_equal(volume.array, itk_array(tmp_path / "image.nrrd"))
    np.testing.assert_allclose(volume.affine, itk_affine(tmp_path / "image.nrrd"), atol=1e-9)


@pytest.mark.parametrize("header", [{}, {"spacings": [0.5, 2, 3]}], ids=["nothing", "spacings"])
def test_nrrd_without_directions(tmp_path, header):
    nrrd.write(str(tmp_path / "image.nrrd"), numbers(), header)
    np.testing.assert_allclose(read_volume(tmp_path / "image.nrrd").affine, itk_affine(tmp_path / "image.nrrd"))


@pytest.mark.parametrize("kind", ["vector", "RGB-color", "list", "3-vector", "point"])
@pytest.mark.parametrize("axis", range(4))
def test_channels_of_nrrd(tmp_path, kind, axis):
    array, lps = np.moveaxis(numbers((3, *SHAPE)), 0, axis), RAS @ AFFINES["oblique"]
    header = {
        "space": "left-posterior-superior",
        "kinds": np.insert(np.array(["domain"] * 3, dtype=object), axis, kind).tolist(),
        "space directions": np.insert(lps[:3, :3].T, axis, np.nan, axis=0),
        "space origin": lps[:3, 3],
    }
    nrrd.write(str(tmp_path / "image.nrrd"), array, header)
    volume = read_volume(tmp_path / "image.nrrd")
    np.testing.assert_array_equal(volume.array, numbers((3, *SHAPE)))
    np.testing.assert_array_equal(volume.array, itk_array(tmp_path / "image.nrrd"))
    np.testing.assert_allclose(volume.affine, itk_affine(tmp_path / "image.nrrd"), atol=1e-9)
    assert volume.slicer_affine is None


def test_nrrd_without_geometry_has_its_channels_last(tmp_path):
    nrrd.write(str(tmp_path / "image.nrrd"), numbers((*SHAPE, 2)))
    volume = read_volume(tmp_path / "image.nrrd")
    np.testing.assert_array_equal(volume.array, np.moveaxis(numbers((*SHAPE, 2)), 3, 0))


def test_nrrd_does_not_reach_for_other_files(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(8))
    header = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 2 2\nencoding: raw\ndata file: secret\n\n"
    (tmp_path / "image.nrrd").write_text(header)
    with pytest.raises(InputError, match="another file"):
        read_volume(tmp_path / "image.nrrd")
