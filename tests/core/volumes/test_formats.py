"""Geometry of files with many kinds of headers, compared with 3D Slicer's own reader; voxel values, with ITK."""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import vtk
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from lib.core.errors import InputError
from lib.core.volumes.reading import read_geometry, read_volume, write_label_map
from lib.core.volumes.volume import Geometry
from slicer_volumes import in_slicer

SHAPE = (4, 3, 2)
NUMBERS = np.arange(24, dtype="<i2").reshape(SHAPE, order="F")
REVERSED_Z = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, SHAPE[2] - 1], [0, 0, 0, 1.0]])


@pytest.fixture(autouse=True)
def quiet() -> Any:
    vtk.vtkObject.GlobalWarningDisplayOff()
    yield
    vtk.vtkObject.GlobalWarningDisplayOn()


def as_slicer_has_it(path: Path) -> tuple[NDArray[np.int16], NDArray[np.float64]] | None:
    """Voxels and affine in Slicer's scene, or None if it can't open the file."""
    try:
        voxels, affine = in_slicer(path)
    except AttributeError:  # there is no node
        return None
    return (voxels, affine) if np.isfinite(affine).all() else None


def assert_as_in_slicer(path: Path, geometry: Geometry, voxels: NDArray[np.int16], affine: NDArray[np.float64]) -> None:
    """Check that the voxels lie, and are numbered, as what was read of Slicer's habits says."""
    found = geometry.affine if geometry.slicer_affine is None else geometry.slicer_affine
    if geometry.slicer_reverses:
        found = found @ REVERSED_Z
    np.testing.assert_allclose(found, affine, atol=2e-4)
    ours = read_volume(path).array[0]
    np.testing.assert_array_equal(ours[:, :, [geometry.slice_from_slicer(k) for k in range(SHAPE[2])]], voxels)


def write_nifti_header(path: Path, random: np.random.Generator) -> Path:
    """Write a file with a random header of the kinds that real files have."""
    header = nibabel.Nifti1Image(NUMBERS, None).header
    size = random.choice([[1, 1, 1], [0.866, 0.866, 0.796], [0, 0, 0], [2, -3, 4], [0.5, 0, 2], [3e-4, 3e-4, 2e-3]])
    lengths = [1, 2, 3] if random.random() < 0.5 else np.where(size == 0, 1, np.abs(size))
    affine = np.eye(4)
    if random.random() < 0.6:
        affine[:3, :3] = Rotation.from_euler("xyz", random.uniform(-90, 90, 3), degrees=True).as_matrix()
    affine[:3, :3] = affine[:3, :3] @ np.diag(random.choice([1, -1], 3) * lengths)
    affine[:3, 3] = random.normal(size=3) * 20
    header.set_qform(affine if random.random() < 0.5 else np.diag([1, 1, -1, 1]) @ affine, 1)
    if random.random() < 0.25:
        affine[0, 1] += affine[0, 0] * random.choice([1e-6, 1e-5, 1e-3, 1e-2, 0.3])
    if random.random() < 0.05:
        affine[2] = 0
    header["srow_x"], header["srow_y"], header["srow_z"] = affine[:3]
    header["pixdim"][:4] = random.choice([-1, 0, 1]), *size
    header["qform_code"], header["sform_code"] = random.integers(0, 5, 2) * (random.random(2) < 0.7)
    header["xyzt_units"] = random.choice([0, 1, 2, 3, 10])
    header["magic"], header["vox_offset"] = b"n+1", 352
    path.write_bytes(header.binaryblock + bytes(4) + NUMBERS.tobytes(order="F"))
    return path


def test_nifti_headers(tmp_path: Path) -> None:
    random, opened = np.random.default_rng(0), Counter[bool]()
    for _ in range(250):
        path = write_nifti_header(tmp_path / "image.nii", random)
        seen = as_slicer_has_it(path)
        opened[seen is not None] += 1
        if seen is None:
            with pytest.raises(InputError):
                read_geometry(path)
        else:
            assert_as_in_slicer(path, read_geometry(path), *seen)
    assert opened[True] > 200
    assert opened[False] > 5


def nrrd_header(random: np.random.Generator, channels: int, axis: int) -> list[str]:
    """Make up the lines of an NRRD header; ``axis`` is the position of the channels' axis, if there are several."""
    by_axis = {"sizes": list("432")}
    lines = []
    space = random.choice(
        ["", "dimension", "RAS", "LPS", "LAS", "Left-Posterior-Superior", "scanner-xyz", "3D-right-handed"]
    )
    if space:
        lines.append("space dimension: 3" if space == "dimension" else f"space: {space}")
        directions = Rotation.from_euler("xyz", random.uniform(-90, 90, 3), degrees=True).as_matrix()
        directions = directions @ np.diag(random.choice([1, -1], 3) * [2, 3, 4])
        if random.random() < 0.9:
            by_axis["space directions"] = [f"({','.join(f'{value:.12f}' for value in row)})" for row in directions.T]
        elif random.random() < 0.5:
            by_axis["spacings"] = ["2", "3", "4"]
        if random.random() < 0.8:
            lines.append(
                "space origin: "
                + random.choice(["(1,2,3)", "(-9.5,0,7)", "(nan,nan,nan)", "(1,nan,3)"], p=[0.5, 0.3, 0.1, 0.1])
            )
        if random.random() < 0.2:
            lines.append('space units: "um" "um" "um"')
    else:
        if random.random() < 0.7:
            by_axis["spacings"] = [
                str(random.choice(["2", "0.5", "1e-3", "nan", "-3", "0"], p=[0.3, 0.3, 0.3, 0.04, 0.03, 0.03]))
                for _ in range(3)
            ]
        if random.random() < 0.5:
            by_axis[str(random.choice(["axis mins", "axismins"]))] = ["10", "-20", "30.5"]
        if random.random() < 0.2:
            by_axis["axis maxs"] = ["18", "-11", "38.5"]
        if random.random() < 0.3:
            by_axis["centerings"] = [str(random.choice(["cell", "node"]))] * 3
        if random.random() < 0.2:
            by_axis["units"] = ['"um"'] * 3
    if channels > 1 or random.random() < 0.5:
        by_axis["kinds"] = [str(random.choice(["domain", "space", "Domain"]))] * 3
    others = {"sizes": str(channels), "space directions": "none", "kinds": "vector", "centerings": "???", "units": '""'}
    for name, values in by_axis.items():
        if channels > 1:
            values.insert(axis, others.get(name, "nan"))
        lines.append(f"{name}: {' '.join(values)}")
    # Usually, each field comes after those that have to precede it.
    order = [0, *(1 + random.permutation(len(lines) - 1))] if random.random() < 0.5 else random.permutation(len(lines))
    if space and random.random() < 0.9:
        order = sorted(
            order,
            key=lambda i: (
                not lines[i].startswith("space"),
                lines[i].startswith("space ") and not lines[i].startswith("space dim"),
            ),
        )
    lines = [lines[i] for i in order]
    if random.random() < 0.3:
        lines = [line.partition(":")[0].title() + ":" + line.partition(":")[2] for line in lines]
    dimension = f"dimension: {3 + (channels > 1)}"
    return ["NRRD0005", "type: short", dimension, *lines, "endian: little", "encoding: raw"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_nrrd_headers(tmp_path: Path, channels: int, seed: int) -> None:
    random, outcomes = np.random.default_rng([channels, seed]), Counter[str]()
    path = tmp_path / "image.nrrd"
    for _ in range(40):
        axis = int(random.choice([0, 3]))
        voxels = NUMBERS if channels == 1 else np.stack([NUMBERS + 100 * channel for channel in range(channels)], axis)
        path.write_bytes("\n".join([*nrrd_header(random, channels, axis), "", ""]).encode() + voxels.tobytes(order="F"))
        seen = as_slicer_has_it(path)
        try:
            geometry = read_geometry(path)
        except InputError:
            # Slicer's other library opens files with several channels that ITK refuses.
            assert seen is None or channels > 1
            outcomes["refused"] += 1
            continue
        assert seen is not None
        assert geometry.channels == channels
        assert_as_in_slicer(path, geometry, *seen)
        outcomes["misread" if geometry.slicer_affine is not None else "read"] += 1
    assert outcomes["read"] > 5
    assert outcomes["read"] + outcomes["misread"] > 20
    assert (outcomes["misread"] > 0) == (channels > 1)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("kind", ["one channel", "three channels", "channels last"])
def test_files_of_itk(tmp_path: Path, ending: str, kind: str, mirrored: bool, turned: bool) -> None:
    array = NUMBERS.T.copy()
    if kind != "one channel":
        array = np.stack([array, array + 100, array + 200], 0 if kind == "channels last" else 3)
    image = sitk.GetImageFromArray(array, isVector=kind == "three channels")
    directions = Rotation.from_euler("xyz", (10, -25, 70) if turned else (0, 0, 0), degrees=True).as_matrix()
    directions = directions @ np.diag([-1 if mirrored else 1, 1, 1])
    n = image.GetDimension()
    whole = np.eye(n)
    whole[:3, :3] = directions
    image.SetDirection(whole.ravel().tolist())
    image.SetSpacing([2, 3, 4, 1][:n])
    image.SetOrigin([1, 2, 3, 0][:n])
    path = tmp_path / f"image{ending}"
    sitk.WriteImage(image, str(path), useCompression=turned)
    seen = as_slicer_has_it(path)
    assert seen is not None
    geometry = read_geometry(path)
    expected = np.eye(4)
    expected[:3, :3], expected[:3, 3] = directions * [2, 3, 4], (1, 2, 3)
    np.testing.assert_allclose(geometry.affine, np.diag([-1, -1, 1, 1]) @ expected, atol=1e-9)
    assert_as_in_slicer(path, geometry, *seen)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_a_written_label_map_lies_where_the_image_lies(tmp_path: Path, ending: str) -> None:
    """Also if the image's own header contradicts itself."""
    random, count = np.random.default_rng(9), 0
    for _ in range(60):
        image = write_nifti_header(tmp_path / "image.nii", random)
        try:
            geometry = read_geometry(image)
        except InputError:
            continue
        write_label_map(tmp_path / f"label{ending}", np.ones(SHAPE, np.uint8), geometry.affine)
        affines = []
        for path in (image, tmp_path / f"label{ending}"):
            itk = sitk.ReadImage(str(path))
            affines.append([*np.ravel(np.reshape(itk.GetDirection(), (3, 3)) * itk.GetSpacing()), *itk.GetOrigin()])
        np.testing.assert_allclose(*affines, rtol=1e-5, atol=1e-5)
        count += 1
    assert count > 30


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "u2", "i4", "u4", "i8", "u8", "f4", ">f4", "f8"])
def test_nifti_values_are_rescaled_as_in_itk(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "image.nii.gz"
    slopes, intercepts = (0, 1, -2.5, 1e-3, 1e-20, np.nan, np.inf), (0, 3.25, -1000, np.nan)
    for slope, intercept in itertools.product(slopes, intercepts):
        image = nibabel.Nifti1Image(NUMBERS.astype(dtype), np.eye(4), dtype=dtype)
        nibabel.save(image, path)
        content = bytearray(nibabel.openers.Opener(str(path)).read())
        order = ">" if dtype.startswith(">") else "<"
        content[112:120] = np.array([slope, intercept], f"{order}f4").tobytes()
        with nibabel.openers.Opener(str(path), "wb") as file:
            file.write(bytes(content))
        itk = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T
        volume = read_volume(path)
        assert volume.array.dtype == itk.dtype.newbyteorder("=") == read_geometry(path).dtype
        np.testing.assert_allclose(volume.array[0], itk, rtol=1e-6, atol=1e-30)
