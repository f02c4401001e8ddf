"""NIfTI files against ITK, the library that 3D Slicer reads files with, through SimpleITK."""

import itertools

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from lib.core.volumes.reading import read_volume
from saved_volumes import AFFINES, RAS, SHAPE, itk_affine, itk_array, misread, numbers, save_nifti


def affine_in_three_dimensions(path):
    """The affine (RAS) that ITK gives any file when told to read it as three-dimensional, as 3D Slicer does."""
    itk = pytest.importorskip("itk")
    vector = read_volume(path).channels > 1 and nibabel.load(path).header["intent_code"] == 1007
    reader = itk.ImageFileReader[itk.VectorImage[itk.F, 3] if vector else itk.Image[itk.F, 3]].New(FileName=str(path))
    reader.Update()
    image, affine = reader.GetOutput(), np.eye(4)
    affine[:3, :3] = itk.array_from_matrix(image.GetDirection()) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return RAS @ affine


@pytest.mark.parametrize(("qform_code", "sform_code"), list(itertools.product(range(5), range(5))))
def test_chooses_between_qform_and_sform_as_itk_does(tmp_path, qform_code, sform_code):
    image = nibabel.Nifti1Image(numbers(), None)
    image.header.set_qform(AFFINES["oblique"], 1)
    image.header.set_sform(AFFINES["left-handed"], 1)
    image.header["qform_code"], image.header["sform_code"] = qform_code, sform_code
    nibabel.save(image, tmp_path / "image.nii")
    found = read_volume(tmp_path / "image.nii").affine
    np.testing.assert_allclose(found, itk_affine(tmp_path / "image.nii"), atol=1e-5)


@pytest.mark.parametrize("code", [1, 2])
def test_a_sheared_sform_gives_way_to_the_qform_as_in_itk(tmp_path, code):
    sheared = AFFINES["oblique"].copy()
    sheared[0, 2] += 0.5
    image = nibabel.Nifti1Image(numbers(), None)
    image.header.set_qform(AFFINES["oblique"], 1)
    image.header.set_sform(sheared, code)
    nibabel.save(image, tmp_path / "image.nii")
    found = read_volume(tmp_path / "image.nii").affine
    np.testing.assert_allclose(found, itk_affine(tmp_path / "image.nii"), atol=1e-5)
    np.testing.assert_allclose(found, AFFINES["oblique"], atol=1e-5)


@pytest.mark.parametrize(("unit", "millimetres"), [("unknown", 1), ("mm", 1), ("micron", 0.001), ("meter", 1000)])
def test_units_become_millimetres(tmp_path, unit, millimetres):
    image = nibabel.Nifti1Image(numbers(), AFFINES["oblique"])
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "image.nii.gz")
    found = read_volume(tmp_path / "image.nii.gz").affine
    np.testing.assert_allclose(found[:3], millimetres * AFFINES["oblique"][:3], rtol=1e-5)
    np.testing.assert_allclose(found, itk_affine(tmp_path / "image.nii.gz"), rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "intent", "is_misread"),
    [
        ((5, 6, 7, 2), None, True),
        ((5, 6, 7, 2), "vector", True),
        ((5, 6, 7, 1, 2), None, True),
        ((5, 6, 7, 2, 1), None, True),
        ((5, 6, 7, 1, 2), "vector", False),
        ((5, 6, 7, 1), None, False),
        ((5, 6, 7, 1, 1), None, False),
    ],
)
@pytest.mark.parametrize("name", ["oblique", "left-handed"])
@pytest.mark.filterwarnings("ignore:builtin type")
def test_channels_of_nifti(tmp_path, shape, intent, is_misread, name):
    array, affine = numbers(shape), AFFINES[name]
    volume = read_volume(save_nifti(tmp_path / "image.nii.gz", array, affine, intent))
    expected = array.reshape(5, 6, 7, -1)
    assert volume.array.shape == (expected.shape[3], *SHAPE)
    for channel in range(volume.channels):
        np.testing.assert_array_equal(volume.array[channel], expected[..., channel])
    np.testing.assert_allclose(volume.affine, affine, atol=1e-5)
    assert (volume.slicer_affine is not None) == is_misread
    if volume.slicer_affine is not None:
        np.testing.assert_allclose(volume.slicer_affine, misread(affine), atol=1e-5)
    seen_by_slicer = affine_in_three_dimensions(tmp_path / "image.nii.gz")
    np.testing.assert_allclose(volume.slicer_affine if is_misread else affine, seen_by_slicer, atol=1e-5)
    if intent == "vector" and len(shape) == 5:
        np.testing.assert_array_equal(volume.array, itk_array(tmp_path / "image.nii.gz"))


def test_rgb_nifti(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    array = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    for channel, name in enumerate("RGB"):
        array[name] = colours[..., channel]
    volume = read_volume(save_nifti(tmp_path / "image.nii.gz", array))
    np.testing.assert_array_equal(volume.array, np.moveaxis(colours, 3, 0))
    assert volume.array.dtype == np.uint8
    assert volume.slicer_affine is None


@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "<i2", ">i2", ">u2", "<u2", "i4", "u4", "i8", "u8", "f4", ">f4", "f8", ">f8"]
)
def test_types_are_kept_in_the_machines_byte_order(tmp_path, dtype):
    array = numbers().astype(dtype)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4), dtype=dtype), tmp_path / "image.nii")
    volume = read_volume(tmp_path / "image.nii")
    np.testing.assert_array_equal(volume.array[0], array)
    assert volume.array.dtype == np.dtype(dtype).newbyteorder("=")
    assert volume.array.flags.c_contiguous


def test_rescaled_values(tmp_path):
    stored = nibabel.Nifti1Image(numbers(), np.eye(4))
    stored.header.set_slope_inter(0.5, 3)
    nibabel.save(stored, tmp_path / "image.nii")
    volume = read_volume(tmp_path / "image.nii")
    np.testing.assert_allclose(volume.array, itk_array(tmp_path / "image.nii"))
    assert volume.array.dtype.kind == "f"


@pytest.mark.parametrize("offset", [0, 300, 348, 352, 400])
def test_voxels_of_nifti_begin_where_itk_says(tmp_path, offset):
    """ITK never reads the header as voxels, whatever the header says."""
    path = tmp_path / "a.nii"
    header = nibabel.Nifti1Image(numbers(), np.eye(4)).header
    header["magic"], header["vox_offset"], header["scl_slope"], header["scl_inter"] = b"n+1", offset, 1, 0
    path.write_bytes(header.binaryblock + np.random.default_rng(0).bytes(2 * numbers().size + 100))
    np.testing.assert_array_equal(read_volume(path).array[0], sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T)
