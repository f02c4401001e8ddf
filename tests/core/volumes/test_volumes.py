"""Geometry is checked against ITK, the library that 3D Slicer reads files with, through SimpleITK."""

import gzip
import itertools
import subprocess
import sys

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from lib.core.errors import InputError
from lib.core.volumes.grids import onto_grid
from lib.core.volumes.intensity import scale_intensity
from lib.core.volumes.reading import read_geometry, read_label_map, read_volume, write_label_map
from lib.core.volumes.volume import LabelMap, Volume
from project import APP
from real_data import label_maps

RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SHAPE = (5, 6, 7)


def affine_of(spacing=(0.5, 1.25, 3.0), angles=(0, 0, 0), origin=(-12.5, 40.25, 7.0), mirror=False):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine @ np.diag([-1 if mirror else 1, 1, 1, 1])


AFFINES = {
    "straight": affine_of(),
    "oblique": affine_of(angles=(10, -25, 70)),
    "left-handed": affine_of(mirror=True),
    "left-handed oblique": affine_of(angles=(10, -25, 70), mirror=True),
    "sagittal": affine_of(angles=(90, 0, 90)),
    "microscope": affine_of(spacing=(0.00026, 0.00026, 0.002), origin=(0.1, -0.2, 0.05)),
}


def numbers(shape=SHAPE, dtype=np.int16):
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def save_nifti(path, array, affine=AFFINES["oblique"], intent=None, **header):
    image = nibabel.Nifti1Image(array, None)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    if intent:
        image.header.set_intent(intent)
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


def itk_affine(path):
    """The affine (RAS) that ITK reads from the file's first three axes."""
    image = sitk.ReadImage(str(path))
    n = image.GetDimension()
    affine = np.eye(4)
    affine[:3, :3] = (np.reshape(image.GetDirection(), (n, n)) * image.GetSpacing())[:3, :3]
    affine[:3, 3] = image.GetOrigin()[:3]
    return RAS @ affine


def affine_in_three_dimensions(path):
    """The affine (RAS) that ITK gives any file which it is told to read as three-dimensional, as 3D Slicer does."""
    itk = pytest.importorskip("itk")
    vector = read_volume(path).channels > 1 and nibabel.load(path).header["intent_code"] == 1007
    reader = itk.ImageFileReader[itk.VectorImage[itk.F, 3] if vector else itk.Image[itk.F, 3]].New(FileName=str(path))
    reader.Update()
    image, affine = reader.GetOutput(), np.eye(4)
    affine[:3, :3] = itk.array_from_matrix(image.GetDirection()) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return RAS @ affine


def itk_array(path):
    """(C, X, Y, Z) as ITK reads it."""
    image = sitk.ReadImage(str(path))
    array = np.moveaxis(sitk.GetArrayFromImage(image), (0, 1, 2), (2, 1, 0))
    return np.moveaxis(array, 3, 0) if image.GetNumberOfComponentsPerPixel() > 1 else array[None]


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd"])
def test_reads_what_itk_writes(tmp_path, name, ending):
    path, affine = tmp_path / f"image{ending}", AFFINES[name]
    lps = RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(numbers().T)
    image.SetSpacing(spacing)
    image.SetDirection((lps[:3, :3] / spacing).ravel())
    image.SetOrigin(lps[:3, 3])
    sitk.WriteImage(image, str(path))

    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, numbers()[None])
    assert volume.array.dtype == np.int16
    np.testing.assert_allclose(volume.affine, affine, rtol=1e-5, atol=1e-6 * spacing.max())
    np.testing.assert_allclose(volume.spacing, spacing, rtol=1e-6)
    assert (volume.shape, volume.channels, volume.slicer_affine) == (SHAPE, 1, None)


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


def misread(affine):
    """The geometry of ../shared/slicer-contract.md: spacing and origin right, directions of an identity in LPS."""
    expected = np.diag([*(np.linalg.norm(affine[:3, :3], axis=0) * [-1, -1, 1]), 1.0])
    expected[:3, 3] = affine[:3, 3]
    return expected


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


def damaged(path, cut):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if cut == "half" else content[:-4] if cut == "end" else b"nonsense")
    return path


def with_flipped_bit(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    return path


def save_nrrd(path, array, header=None):
    nrrd.write(str(path), array, header or {})
    return path


RANDOM = np.random.default_rng(0).integers(0, 9999, (20, 20, 20)).astype(np.int16)
NAN = np.where(numbers() == 100, np.nan, numbers()).astype(np.float32)
BAD_VOLUMES = {
    "missing": (lambda d: d / "image.nii", "no such file"),
    "unknown ending": (lambda d: d / "image.tiff", "unknown file ending"),
    "2-D": (lambda d: save_nifti(d / "image.nii", numbers((5, 6))), "2-D"),
    "one slice": (lambda d: save_nifti(d / "image.nii", numbers((5, 6, 1))), "2-D"),
    "one slice with channels": (lambda d: save_nifti(d / "image.nii", numbers((5, 6, 1, 3))), "2-D"),
    "2-D nrrd": (lambda d: save_nrrd(d / "image.nrrd", numbers((5, 6))), "2-D"),
    "2-D colour nrrd": (
        lambda d: save_nrrd(d / "image.nrrd", numbers((3, 5, 6)), {"kinds": ["RGB-color", "domain", "domain"]}),
        "2-D",
    ),
    "time series of vectors": (lambda d: save_nifti(d / "image.nii", numbers((*SHAPE, 2, 3))), "one point in time"),
    "infinite": (
        lambda d: save_nrrd(d / "image.nrrd", np.where(np.isnan(NAN), np.inf, NAN)),
        r"1 values are infinite \(the first at voxel \(2, 2, 2\), channel 0",
    ),
    "NaN alone": (lambda d: save_nifti(d / "image.nii", np.full(SHAPE, np.nan)), "all values of channel 0 are NaN"),
    "complex": (lambda d: save_nifti(d / "image.nii", numbers().astype(np.complex64)), "complex"),
    "complex nrrd": (
        lambda d: save_nrrd(d / "image.nrrd", numbers((2, *SHAPE)), {"kinds": ["complex", *["domain"] * 3]}),
        "complex",
    ),
    "half a nii": (lambda d: damaged(save_nifti(d / "image.nii", RANDOM), "half"), "damaged"),
    "half a nii.gz": (lambda d: damaged(save_nifti(d / "image.nii.gz", RANDOM), "half"), "damaged"),
    "nii.gz without its end": (lambda d: damaged(save_nifti(d / "image.nii.gz", RANDOM), "end"), "damaged"),
    "nii.gz with a wrong bit": (lambda d: with_flipped_bit(save_nifti(d / "image.nii.gz", RANDOM)), "damaged"),
    "half a nrrd": (lambda d: damaged(save_nrrd(d / "image.nrrd", RANDOM), "half"), "damaged"),
    "text as nii": (lambda d: damaged(save_nifti(d / "image.nii", RANDOM), "all"), "damaged"),
    "text as nii.gz": (lambda d: damaged(save_nifti(d / "image.nii.gz", RANDOM), "all"), "damaged"),
    "text as nrrd": (lambda d: damaged(save_nrrd(d / "image.nrrd", RANDOM), "all"), "damaged"),
    "no voxel size": (
        lambda d: save_nrrd(
            d / "image.nrrd",
            numbers(),
            {"space": "RAS", "space directions": np.diag([1, 0, 1]), "space origin": [0] * 3},
        ),
        "affine",
    ),
}


@pytest.mark.parametrize("name", BAD_VOLUMES)
def test_bad_volumes_are_refused_by_name(tmp_path, name):
    make, message = BAD_VOLUMES[name]
    path = make(tmp_path)
    with pytest.raises(InputError, match=message) as refusal:
        read_volume(path)
    assert str(path) in str(refusal.value)


def test_voxels_of_nan_are_outside(tmp_path):
    """In both formats: ITK makes 0 of NaN in NIfTI files."""
    masked = numbers((*SHAPE, 2)).astype(np.float32) - 50
    masked[:2, ..., :] = np.nan
    masked[3, 3, 3, 1] = np.nan
    save_nifti(tmp_path / "image.nii.gz", masked)
    save_nrrd(tmp_path / "image.nrrd", masked, {"kinds": [*["domain"] * 3, "vector"]})
    for name in ("image.nii.gz", "image.nrrd"):
        volume = read_volume(tmp_path / name)
        assert np.isfinite(volume.array).all()
        np.testing.assert_array_equal(volume.outside, np.isnan(masked).all(axis=3))
        assert volume.notes == (f"{tmp_path / name}: {2 * 6 * 7} voxels are NaN and count as outside",)
        for channel in range(2):
            known = ~np.isnan(masked[..., channel])
            np.testing.assert_array_equal(volume.array[channel][known], masked[known, channel])
            assert (volume.array[channel][~known] == np.nanmin(masked[..., channel])).all()
    whole = read_volume(save_nifti(tmp_path / "whole.nii", numbers().astype(np.float32)))
    assert (whole.outside, whole.notes) == (None, ())


def test_voxels_of_nan_in_some_channels_are_told(tmp_path):
    masked = numbers((*SHAPE, 2)).astype(np.float64)
    masked[0, ..., 1] = np.nan
    volume = read_volume(save_nifti(tmp_path / "image.nii", masked))
    assert volume.outside is None
    assert "some of the channels" in volume.notes[0]
    assert (volume.array[1, 0] == np.nanmin(masked[..., 1])).all()


def test_channels_in_files_of_their_own_are_outside_where_all_are(tmp_path):
    for number in range(2):
        array = numbers().astype(np.float32)
        array[: number + 1] = np.nan
        save_nifti(tmp_path / f"a_000{number}.nii", array)
    volume = read_volume(tmp_path / "a_0000.nii")
    assert volume.outside is not None
    np.testing.assert_array_equal(volume.outside.nonzero()[0], 0)
    assert volume.outside[0].all()


@pytest.mark.parametrize("make", [save_nifti, save_nrrd], ids=["nifti", "nrrd"])
def test_geometry_is_that_of_the_volume(tmp_path, make):
    path = make(tmp_path / ("image.nii.gz" if make is save_nifti else "image.nrrd"), numbers((*SHAPE, 2)))
    geometry, volume = read_geometry(path), read_volume(path)
    assert geometry.channels == 2
    for name in ("shape", "channels", "dtype", "name", "slicer_reverses", "spacing"):
        assert getattr(geometry, name) == getattr(volume.geometry, name)
    np.testing.assert_array_equal(geometry.affine, volume.affine)
    np.testing.assert_array_equal(geometry.slicer_affine, volume.slicer_affine)
    np.testing.assert_array_equal(onto_grid(LabelMap(numbers(), geometry.affine), geometry), numbers())


def declared(path, shape, content=b"\0" * 1000):
    """Write a file whose header declares a shape, whatever is in it."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    path.write_bytes(
        {
            ".nii": lambda: header.binaryblock + bytes(4) + content,
            ".gz": lambda: gzip.compress(header.binaryblock + bytes(4) + content),
            ".nrrd": lambda: (
                b"NRRD0004\ntype: int16\ndimension: 3\nendian: little\nencoding: raw\nsizes: %d %d %d\n\n" % shape
                + content
            ),
            ".mha": lambda: (
                b"ObjectType = Image\nNDims = 3\nDimSize = %d %d %d\nElementType = MET_SHORT\n" % shape
                + b"ElementDataFile = LOCAL\n"
                + content
            ),
        }[path.suffix]()
    )
    return path


@pytest.mark.parametrize("shape", [(30000, 30000, 30000), (2000, 2000, 2000)])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_header_that_declares_more_than_the_file_holds_is_damaged(tmp_path, ending, shape):
    path = declared(tmp_path / f"image{ending}", shape)
    for read in (read_geometry, read_volume):
        with pytest.raises(InputError, match="damaged"):
            read(path)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_volume_too_large_for_the_memory_is_not_called_damaged(tmp_path, ending, monkeypatch):
    path = declared(tmp_path / f"image{ending}", (100, 100, 100), bytes(2_000_000))
    assert read_volume(path).shape == (100, 100, 100)
    monkeypatch.setattr("lib.core.volumes.reading.free_memory", lambda: 3_900_000)
    assert read_geometry(path).shape == (100, 100, 100)
    with pytest.raises(InputError, match=r"needs 0\.0 GB of memory to be read, and 0\.0 GB are free; close") as refusal:
        read_volume(path)
    assert "damaged" not in str(refusal.value)
    monkeypatch.setattr("lib.core.volumes.reading.free_memory", lambda: 4_000_000)
    assert read_volume(path).shape == (100, 100, 100)


def test_memory_that_is_missing_after_all_is_not_called_damage(tmp_path):
    """In a process that may have so little memory, whatever the computer has."""
    path = declared(tmp_path / "image.nii.gz", (1000, 1000, 500), bytes(1_000_000_000))
    code = (
        "import resource, sys\n"
        "from lib.core.errors import InputError; from lib.core.volumes.reading import read_volume\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 1_200_000_000,) * 2)\n"
        "try: read_volume(sys.argv[1])\n"
        "except InputError as error: print(error)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=APP, capture_output=True, text=True, check=True
    ).stdout
    assert "GB of memory" in told
    assert "damaged" not in told


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda d: nibabel.save(nibabel.Nifti2Image(numbers(), np.eye(4)), d / "image.nii.gz"), "NIfTI-2.*NIfTI-1"),
        (lambda d: save_nrrd(d / "image.nrrd", numbers(), {"encoding": "bzip2"}), "bzip2.*gzip"),
        (lambda d: save_nifti(d / "image.nii.gz", numbers()).rename(d / "image.Nii.gz"), "rename it to .nii.gz"),
        (lambda d: sitk.WriteImage(sitk.GetImageFromArray(numbers()), str(d / "image.hdr")), "unknown file ending"),
        (
            lambda d: save_nrrd(d / "image.nrrd", numbers(), {"space": "RAS", "spacings": [1, 2, 3]}),
            "can't open it either",
        ),
        (
            lambda d: save_nrrd(
                d / "image.nrrd",
                numbers(),
                {"space": "RAS", "space directions": np.eye(3) + np.eye(3, k=1) / 9, "space origin": [0] * 3},
            ),
            "aren't perpendicular",
        ),
    ],
)
def test_what_slicer_cannot_open_is_refused_with_a_way_out(tmp_path, make, words):
    make(tmp_path)
    (path,) = [path for path in tmp_path.iterdir() if path.suffix != ".img"]
    with pytest.raises(InputError, match=words) as refusal:
        read_geometry(path)
    assert str(path) in str(refusal.value)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path):
    (tmp_path / "image.nii.gz").symlink_to("/proc/self/mem")
    with pytest.raises(InputError, match="check the permissions") as refusal:
        read_volume(tmp_path / "image.nii.gz")
    assert "damaged" not in str(refusal.value)


@pytest.mark.parametrize(
    "make", [save_nrrd, lambda path, array: write_label_map(path.with_suffix(".mha"), array, np.eye(4))]
)
def test_a_wrong_bit_in_compressed_voxels_is_found(tmp_path, make):
    make(tmp_path / "image.nrrd", (RANDOM % 256).astype(np.uint8))
    (path,) = tmp_path.iterdir()
    assert read_volume(path).shape == RANDOM.shape
    with pytest.raises(InputError, match="damaged"):
        read_volume(with_flipped_bit(path))


def test_a_meta_image_does_not_reach_for_other_files(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(numbers()), str(tmp_path / "image.mhd"))
    (tmp_path / "image.mhd").rename(tmp_path / "image.mha")
    with pytest.raises(InputError, match="another file"):
        read_volume(tmp_path / "image.mha")


def test_nrrd_does_not_reach_for_other_files(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(8))
    header = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 2 2\nencoding: raw\ndata file: secret\n\n"
    (tmp_path / "image.nrrd").write_text(header)
    with pytest.raises(InputError, match="another file"):
        read_volume(tmp_path / "image.nrrd")


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


def volume_of(affine, channels=1, slicer_affine=None):
    return Volume(np.zeros((channels, *SHAPE), np.uint8), affine, slicer_affine)


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product([False, True], repeat=3)))
def test_onto_grid_finds_each_voxel_where_it_lies_in_the_world(name, order, flips):
    affine, truth = AFFINES[name], numbers()
    # Turned as numpy does; the affine of the turned array by following four of its voxels to where they came from.
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


def test_onto_grid_takes_back_what_itk_turned(tmp_path):
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


def test_uppercase_endings(tmp_path):
    save_nifti(tmp_path / "image.nii.gz", numbers()).rename(tmp_path / "IMAGE.NII.GZ")
    assert read_volume(str(tmp_path / "IMAGE.NII.GZ")).shape == SHAPE


def test_label_map_with_unknown_ending_is_refused(tmp_path):
    with pytest.raises(InputError, match="unknown file ending"):
        write_label_map(tmp_path / "label.png", np.zeros(SHAPE, np.uint8), np.eye(4))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", label_maps())
def test_real_data(file):
    volume, label = read_volume(file.parent.parent / "images" / file.name), read_label_map(file)
    np.testing.assert_allclose(volume.affine, itk_affine(file), atol=1e-6)
    found = onto_grid(label, volume)
    assert found.shape == volume.shape
    assert found.max() == 2
    np.testing.assert_array_equal(found, itk_array(file)[0])
    np.testing.assert_array_equal(gzip.decompress(file.read_bytes())[352:], found.tobytes(order="F"))
    scaled = scale_intensity(volume.array)
    assert scaled.shape == (volume.channels, *volume.shape)
    assert scaled.min() == 0
    assert scaled.max() == 1
    if volume.channels > 1:
        assert volume.slicer_affine is not None
        np.testing.assert_array_equal(onto_grid(LabelMap(label.array, volume.slicer_affine), volume), label.array)


@pytest.mark.parametrize("offset", [0, 300, 348, 352, 400])
def test_voxels_of_nifti_begin_where_itk_says(tmp_path, offset):
    """It never takes the header for voxels, whatever the header says."""
    path = tmp_path / "a.nii"
    header = nibabel.Nifti1Image(numbers(), np.eye(4)).header
    header["magic"], header["vox_offset"], header["scl_slope"], header["scl_inter"] = b"n+1", offset, 1, 0
    path.write_bytes(header.binaryblock + np.random.default_rng(0).bytes(2 * numbers().size + 100))
    np.testing.assert_array_equal(read_volume(path).array[0], sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T)


@pytest.mark.parametrize("flag", ["True", "T", "true"])
def test_compressed_metaimages_are_read_as_by_itk(tmp_path, flag):
    path = tmp_path / "a.mha"
    sitk.WriteImage(sitk.GetImageFromArray(numbers().T.copy()), str(path), useCompression=True)
    path.write_bytes(path.read_bytes().replace(b"CompressedData = True", b"CompressedData = " + flag.encode()))
    np.testing.assert_array_equal(read_volume(path).array[0], numbers())
