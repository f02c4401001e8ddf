"""Files that hold several images, in a made-up format."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lib.core.errors import InputError
from lib.core.volumes.formats import file_of
from lib.core.volumes.image_files import files_of, image_path, images_in
from lib.core.volumes.reading import read_volume
from made_up_format import npz_format
from serving import write_image

VOXELS = np.arange(120, dtype=np.uint16).reshape(1, 6, 5, 4)


@pytest.fixture(autouse=True)
def npz() -> Iterator[None]:
    with npz_format():
        yield


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with the images ``before`` and ``t0001``."""
    np.savez(tmp_path / "mouse.npz", before=VOXELS, t0001=VOXELS[::-1] + 1)
    return tmp_path / "mouse.npz"


def test_each_image_has_an_id_and_a_path(file: Path) -> None:
    found = images_in(file.parent)
    assert {image_id: (image.path, image.ending, image.files) for image_id, image in found.items()} == {
        "mouse_before": (file / "before", ".npz/before", (file,)),
        "mouse_t0001": (file / "t0001", ".npz/t0001", (file,)),
    }
    for image_id, image in found.items():
        assert image_path(file.parent, image_id, image.ending) == image.path
        assert files_of(image.path) == (image.path,)
        assert file_of(image.path) == file
    np.testing.assert_array_equal(read_volume(file / "before").array, VOXELS)
    np.testing.assert_array_equal(read_volume(file / "t0001").array, VOXELS[::-1] + 1)


def test_a_file_with_one_image_is_that_image(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.b.NPZ", x=VOXELS)
    (tmp_path / "a.b.NPZ.npz").rename(tmp_path / "a.b.NPZ")
    assert {image_id: image.path.name for image_id, image in images_in(tmp_path).items()} == {"a.b": "a.b.NPZ"}


def test_a_damaged_file_is_an_image_that_says_so_when_it_is_opened(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"no array")
    assert list(images_in(tmp_path)) == ["a"]


def test_what_is_in_a_file_is_looked_up_again_when_it_changes(file: Path) -> None:
    assert len(images_in(file.parent)) == 2
    np.savez(file, one=VOXELS, two=VOXELS, three=VOXELS)
    assert list(images_in(file.parent)) == ["mouse_one", "mouse_three", "mouse_two"]


def test_of_two_images_of_one_id_the_known_one_counts(file: Path) -> None:
    write_image(file.parent / "mouse_before.nii.gz")
    assert images_in(file.parent, {"mouse_before": ".nii.gz"})["mouse_before"].path.name == "mouse_before.nii.gz"
    assert images_in(file.parent, {"mouse_before": ".npz/before"})["mouse_before"].path == file / "before"


def test_a_folder_named_like_a_file_holds_its_own_images(tmp_path: Path) -> None:
    folder = tmp_path / "all.npz"
    folder.mkdir()
    image = write_image(folder / "a.nii.gz")
    assert file_of(image) == image
    assert read_volume(image).shape == (20, 18, 12)


def test_several_images_need_a_name(file: Path) -> None:
    with pytest.raises(InputError, match="several"):
        read_volume(file)
