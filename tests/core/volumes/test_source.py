"""The interface for image formats: a new format is one class, as here, and one line. Also, boxes in all formats."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from lib.core.errors import InputError
from lib.core.volumes import formats
from lib.core.volumes.formats import Format
from lib.core.volumes.image_files import images_in
from lib.core.volumes.reading import open_image, read_geometry, read_volume, write_label_map
from lib.core.volumes.source import Box, VolumeSource
from lib.core.volumes.volume import Geometry

SHAPE = (6, 5, 4)
AFFINE = np.array([[0.5, 0, 0, -3], [0, 0.5, 0, 4], [0, 0, 2, 5], [0, 0, 0, 1.0]])
VOXELS = np.arange(2 * 120, dtype=np.int16).reshape(2, *SHAPE)
BOX = (slice(1, 4), slice(0, 5), slice(2, 3))


class NumpyFolder:
    """A made-up format: a folder with a JSON header and a memory-mapped array (C, X, Y, Z)."""

    notes = ("made up",)

    def __init__(self, path: Path) -> None:
        header = json.loads((path / "header.json").read_text())
        self._array = np.load(path / "voxels.npy", mmap_mode="r")
        channels, *shape = self._array.shape
        self.geometry = Geometry(
            (shape[0], shape[1], shape[2]), np.array(header["affine"]), channels, self._array.dtype, name=str(path)
        )

    def read(self, box: Box | None = None) -> NDArray[Any]:
        return np.ascontiguousarray(self._array[(slice(None), *(box or ()))])

    def working_memory(self, box: Box | None = None) -> int:
        return 0


@pytest.fixture
def numpy_format(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(formats.FORMATS, ".vol", Format(NumpyFolder, is_folder=True))


def save_folder(path: Path, array: NDArray[Any] = VOXELS) -> Path:
    path.mkdir()
    (path / "header.json").write_text(json.dumps({"affine": AFFINE.tolist()}))
    np.save(path / "voxels.npy", array)
    return path


def save(path: Path, array: NDArray[Any] = VOXELS) -> Path:
    """Save an image (C, X, Y, Z) by ITK, which the tests of the formats check."""
    image = sitk.GetImageFromArray(array[0].T if len(array) == 1 else np.moveaxis(array, 0, 3).transpose(2, 1, 0, 3))
    image.SetSpacing([0.5, 0.5, 2])
    image.SetDirection(np.diag([-1.0, -1, 1]).ravel())
    image.SetOrigin([3, -4, 5])
    sitk.WriteImage(image, str(path))
    return path


@pytest.mark.usefixtures("numpy_format")
def test_another_format_is_one_class_and_one_line(tmp_path: Path) -> None:
    path = save_folder(tmp_path / "a.vol")
    (tmp_path / "notes.txt").touch()
    assert {image_id: image.files for image_id, image in images_in(tmp_path).items()} == {"a": (path,)}

    geometry = read_geometry(path)
    assert (geometry.shape, geometry.channels, geometry.dtype, geometry.spacing) == (SHAPE, 2, np.int16, (0.5, 0.5, 2))
    volume = read_volume(path)
    assert volume.notes == ("made up",)
    np.testing.assert_array_equal(volume.array, VOXELS)
    np.testing.assert_array_equal(volume.affine, AFFINE)
    np.testing.assert_array_equal(open_image(path).read(BOX), VOXELS[(slice(None), *BOX)])

    with pytest.raises(InputError, match=r"\.vol files can only be read; choose one of \.nii"):
        write_label_map(tmp_path / "label.vol", np.zeros(SHAPE, np.uint8), AFFINE)
    assert not (tmp_path / "label.vol").exists()


def test_an_unregistered_ending_is_unknown(tmp_path: Path) -> None:
    path = save_folder(tmp_path / "a.vol")
    assert images_in(tmp_path) == {}
    with pytest.raises(InputError, match="unknown file ending"):
        read_volume(path)


@pytest.mark.usefixtures("numpy_format")
def test_channels_may_be_of_different_formats(tmp_path: Path) -> None:
    save(tmp_path / "a_0000.nii.gz", VOXELS[:1])
    save_folder(tmp_path / "a_0001.vol", VOXELS[1:].astype(np.float32))
    source = open_image(tmp_path / "a_0000.nii.gz")
    assert (source.geometry.channels, source.geometry.dtype) == (2, np.float32)
    for box in (None, BOX):
        np.testing.assert_array_equal(source.read(box), VOXELS[(slice(None), *(box or ()))])


@pytest.mark.usefixtures("numpy_format")
def test_the_longest_ending_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(path: Path) -> VolumeSource:
        raise InputError(f"{path}: opened as the other format")

    monkeypatch.setitem(formats.FORMATS, ".more.vol", Format(other))
    with pytest.raises(InputError, match="the other format"):
        read_volume(save_folder(tmp_path / "a.more.vol"))
    assert list(images_in(tmp_path)) == ["a"]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("box", [None, BOX, (slice(0, 6), slice(4, 5), slice(0, 4))])
def test_a_box_has_the_voxels_that_the_whole_image_has_there(
    tmp_path: Path, ending: str, channels: int, box: Box | None
) -> None:
    source = open_image(save(tmp_path / f"a{ending}", VOXELS[:channels]))
    found = source.read(box)
    np.testing.assert_array_equal(found, VOXELS[(slice(channels), *(box or ()))])
    assert found.flags.c_contiguous
    assert found.dtype == source.geometry.dtype == np.int16
    assert source.geometry.nbytes == channels * 240


def test_a_box_is_rescaled_as_the_whole_image_is(tmp_path: Path) -> None:
    content = bytearray(save(tmp_path / "a.nii", VOXELS[:1]).read_bytes())
    content[112:120] = np.array([0.5, 3], "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(content)
    np.testing.assert_allclose(open_image(tmp_path / "a.nii").read(BOX), 0.5 * VOXELS[(slice(1), *BOX)] + 3)
