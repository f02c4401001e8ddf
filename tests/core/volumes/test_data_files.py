"""Headers whose voxels are in another file, written and read by ITK, nibabel and pynrrd."""

import os
from collections.abc import Callable
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from lib.core.errors import InputError
from lib.core.volumes.image_files import all_files, images_in, is_label_file
from lib.core.volumes.reading import open_image, read_volume
from saved_volumes import AFFINES, RAS, numbers

HEADERS = (".mhd", ".nhdr", ".hdr")


def write(path: Path, affine: NDArray[np.float64] = RAS, channels: int = 1, compressed: bool = False) -> Path:
    """Write numbers as ITK does."""
    array = np.stack([numbers() + 1000 * channel for channel in range(channels)], axis=-1)
    image = sitk.GetImageFromArray(np.moveaxis(array, 3, 0).T if channels > 1 else array[..., 0].T, channels > 1)
    lps = RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path), compressed)
    return path


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize(
    ("ending", "compressed"), [*((ending, False) for ending in HEADERS), (".mhd", True), (".nhdr", True)]
)
def test_voxels_and_geometry_are_those_of_itk(ending: str, name: str, compressed: bool, tmp_path: Path) -> None:
    volume = read_volume(write(tmp_path / f"a{ending}", AFFINES[name], compressed=compressed))
    np.testing.assert_array_equal(volume.array[0], numbers())
    np.testing.assert_allclose(volume.affine, AFFINES[name], atol=1e-6)
    assert volume.notes == ()
    # The copy for Slicer has one channel.
    assert volume.slicer_reverses == ("left-handed" in name)
    assert volume.slicer_affine is None


@pytest.mark.parametrize("ending", [".mhd", ".nhdr"])
def test_channels_are_read(ending: str, tmp_path: Path) -> None:
    volume = read_volume(write(tmp_path / f"a{ending}", AFFINES["left-handed"], channels=2))
    np.testing.assert_array_equal(volume.array, [numbers(), numbers() + 1000])
    assert not volume.slicer_reverses


@pytest.mark.parametrize(
    ("change", "edit"),
    [
        ("HeaderSize = -1\n", lambda data: b"head" + data),
        ("HeaderSize = 4\n", lambda data: b"head" + data),
        ("ElementByteOrderMSB = True\n", lambda data: np.frombuffer(data, np.int16).byteswap().tobytes()),
    ],
)
def test_fields_of_meta_images_count_in_the_data_file(
    change: str, edit: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path, data = write(tmp_path / "a.mhd"), tmp_path / "a.raw"
    text = path.read_text().replace("BinaryDataByteOrderMSB = False\n", "")
    path.write_text(text.replace("ElementDataFile", f"{change}ElementDataFile"))
    data.write_bytes(edit(data.read_bytes()))
    np.testing.assert_array_equal(read_volume(path).array[0], sitk.GetArrayFromImage(sitk.ReadImage(path)).T)
    np.testing.assert_array_equal(read_volume(path).array[0], numbers())


@pytest.mark.parametrize(
    ("fields", "before"), [("line skip: 1\nbyte skip: 2\n", b"text\nxy"), ("byte skip: -1\n", b"whatever")]
)
def test_fields_of_nrrd_count_in_the_data_file(fields: str, before: bytes, tmp_path: Path) -> None:
    path, data = write(tmp_path / "a.nhdr"), tmp_path / "a.raw"
    path.write_text(path.read_text().replace("data file: ", f"{fields}data file: ./"))
    data.write_bytes(before + data.read_bytes())
    np.testing.assert_array_equal(read_volume(path).array[0], nrrd.read(str(path))[0])
    np.testing.assert_array_equal(read_volume(path).array[0], numbers())


def test_analyze_lies_as_in_itk_and_says_that_it_has_no_orientation(tmp_path: Path) -> None:
    image = nibabel.AnalyzeImage(numbers().astype(np.float32), np.diag([2.0, 3, 4, 1]))
    nibabel.save(image, tmp_path / "a.hdr")
    # Some programs keep a factor here, where NIfTI has it too; ITK ignores it.
    content = bytearray((tmp_path / "a.hdr").read_bytes())
    content[112:116] = np.float32(7).tobytes()
    (tmp_path / "a.hdr").write_bytes(content)
    volume = read_volume(tmp_path / "a.hdr")
    by_itk = sitk.ReadImage(str(tmp_path / "a.hdr"), imageIO="NiftiImageIO")
    np.testing.assert_array_equal(volume.array[0], sitk.GetArrayFromImage(by_itk).T)
    np.testing.assert_array_equal(volume.array[0], numbers())
    np.testing.assert_allclose(volume.affine, RAS @ np.diag([2, 3, 4, 1]))
    assert by_itk.GetSpacing() == (2, 3, 4)
    assert by_itk.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert by_itk.GetOrigin() == (0, 0, 0)
    assert ["which way is left" in note for note in volume.notes] == [True]


def test_big_endian_analyze_is_read(tmp_path: Path) -> None:
    header = nibabel.AnalyzeHeader(endianness=">")
    nibabel.save(nibabel.AnalyzeImage(numbers().astype(">i2"), np.diag([2.0, 3, 4, 1]), header), tmp_path / "a.hdr")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.hdr").array[0], numbers())


def data_of(path: Path) -> Path:
    return path.with_suffix(".img" if path.suffix == ".hdr" else ".raw")


@pytest.mark.parametrize("ending", HEADERS)
def test_a_data_file_that_is_missing_short_or_elsewhere_is_refused(ending: str, tmp_path: Path) -> None:
    (tmp_path / "studies").mkdir()
    path = write(tmp_path / "studies" / f"a{ending}")
    data = data_of(path)
    content = data.read_bytes()
    data.write_bytes(content[:-1])
    with pytest.raises(InputError, match="bytes"):
        open_image(path)
    data.unlink()
    with pytest.raises(InputError, match=f"{data.name}, which is missing"):
        open_image(path)
    (tmp_path / data.name).write_bytes(content)
    data.symlink_to(tmp_path / data.name)
    with pytest.raises(InputError, match="links to another folder"):
        open_image(path)
    assert all_files(path) == [path]


@pytest.mark.parametrize(
    "name",
    ["../a.raw", "x/a.raw", "/a.raw", "x\\a.raw", "a%03d.raw 1 3 1", "LIST", "users.json", ".a.raw", "", "c:a.raw"],
)
@pytest.mark.parametrize("ending", [".mhd", ".nhdr"])
def test_a_header_names_one_plain_file(ending: str, name: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"a{ending}")
    text = path.read_text().replace("a.raw", name)
    path.write_text(text)
    with pytest.raises(InputError, match="plain name of one file"):
        open_image(path)
    assert all_files(path) == [path]


def test_more_voxels_than_the_data_file_has_are_not_allocated(tmp_path: Path) -> None:
    for ending, old, new in ((".mhd", "DimSize = 5 6 7", "DimSize"), (".nhdr", "sizes: 5 6 7", "sizes:")):
        path = write(tmp_path / f"a{ending}")
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, f"{new} {'=' if ending == '.mhd' else ''} 50000 60000 700"))
        with pytest.raises(InputError, match="declares"):
            open_image(path)


def test_data_files_are_no_images(tmp_path: Path) -> None:
    for name in ("m.mhd", "n.nhdr", "h.hdr"):
        write(tmp_path / name)
    write(tmp_path / "z.mhd", compressed=True)
    write(tmp_path / "g.nhdr", compressed=True)
    found = images_in(tmp_path)
    assert list(found) == ["g", "h", "m", "n", "z"]
    files = {image_id: [file.name for file in all_files(image.path)] for image_id, image in found.items()}
    assert files == {
        "g": ["g.nhdr", "g.raw.gz"],
        "h": ["h.hdr", "h.img"],
        "m": ["m.mhd", "m.raw"],
        "n": ["n.nhdr", "n.raw"],
        "z": ["z.mhd", "z.zraw"],
    }
    assert not any(map(is_label_file, os.listdir(tmp_path)))


def test_a_segmentation_with_a_data_file_is_no_image(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nhdr")
    path.write_text(path.read_text().replace("data file", "Segment0_ID:=x\ndata file"))
    assert images_in(tmp_path) == {}
