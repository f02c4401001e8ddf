"""Reading images, and what is refused; geometry is checked against ITK through SimpleITK."""

import gzip
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from lib.core.errors import InputError
from lib.core.volumes.grids import onto_grid
from lib.core.volumes.intensity import scale_intensity
from lib.core.volumes.reading import read_geometry, read_label_map, read_volume, write_label_map
from lib.core.volumes.volume import LabelMap
from project import APP
from real_data import label_maps
from saved_volumes import AFFINES, NAN, RAS, SHAPE, itk_affine, itk_array, numbers, save_nifti, save_nrrd


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


def damaged(path, cut):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if cut == "half" else content[:-4] if cut == "end" else b"nonsense")
    return path


def with_flipped_bit(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    return path


RANDOM = np.random.default_rng(0).integers(0, 9999, (20, 20, 20)).astype(np.int16)


BAD_VOLUMES = {
    "missing": (lambda d: d / "image.nii", "no such file"),
    "unknown ending": (lambda d: d / "image.dv", "unknown file ending"),
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
        r"the value of voxel \(2, 2, 2\) in channel 0 is infinite",
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


def test_nan_voxels_are_outside(tmp_path):
    """In both formats, although ITK replaces NaN by 0 in NIfTI files."""
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


def test_nan_in_some_channels_is_reported(tmp_path):
    masked = numbers((*SHAPE, 2)).astype(np.float64)
    masked[0, ..., 1] = np.nan
    volume = read_volume(save_nifti(tmp_path / "image.nii", masked))
    assert volume.outside is None
    assert "NaN in only some channels" in volume.notes[0]
    assert (volume.array[1, 0] == np.nanmin(masked[..., 1])).all()


def test_voxels_that_are_nan_in_all_channel_files_are_outside(tmp_path):
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
    """Write a file whose header declares a shape, whatever its content."""
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
    monkeypatch.setattr("lib.core.volumes.budget.free_memory", lambda: 3_900_000)
    assert read_geometry(path).shape == (100, 100, 100)
    with pytest.raises(InputError, match=r"needs 0\.0 GB of memory to be read, and 0\.0 GB are free; close") as refusal:
        read_volume(path)
    assert "damaged" not in str(refusal.value)
    monkeypatch.setattr("lib.core.volumes.budget.free_memory", lambda: 4_000_000)
    assert read_volume(path).shape == (100, 100, 100)


def test_running_out_of_memory_is_not_called_damage(tmp_path):
    """In a process whose memory is limited, whatever the computer has."""
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
        (lambda d: sitk.WriteImage(sitk.GetImageFromArray(numbers()), str(d / "image.vtk")), "unknown file ending"),
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
def test_what_slicer_cannot_open_is_refused_with_advice(tmp_path, make, words):
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


def test_uppercase_endings(tmp_path):
    save_nifti(tmp_path / "image.nii.gz", numbers()).rename(tmp_path / "IMAGE.NII.GZ")
    assert read_volume(str(tmp_path / "IMAGE.NII.GZ")).shape == SHAPE


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
