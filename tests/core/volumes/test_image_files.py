"""Which files make up an image, and reading it from them; single files are read with SimpleITK for comparison."""

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from lib.core.errors import InputError
from lib.core.volumes.image_files import files_of, images_among, images_in
from lib.core.volumes.reading import read_label_map, read_volume

SHAPE = (5, 6, 7)
AFFINE = np.array([[0.5, 0.1, 0, -12], [-0.1, 0.5, 0, 40], [0, 0, 2, 7], [0, 0, 0, 1]])


def found(*names: str) -> dict[str, list[str]]:
    """For each image in a folder, the names of its files, after the name of the one that stands for it."""
    images = images_among(Path("folder"), names)
    assert not any(image.fault for image in images.values())
    assert all(image.path == image.files[0] for image in images.values())
    return {image_id: [path.name for path in image.files] for image_id, image in images.items()}


def faults(*names: str) -> dict[str, str]:
    return {image_id: image.fault for image_id, image in images_among(Path("folder"), names).items() if image.fault}


def test_without_a_channel_0_every_file_is_an_image() -> None:
    assert found("mouse_0003.nii.gz", "mouse_0004.nii.gz", "mouse.nrrd", "scan.v2_1.nii", "x_00000.nii") == {
        "mouse": ["mouse.nrrd"],
        "mouse_0003": ["mouse_0003.nii.gz"],
        "mouse_0004": ["mouse_0004.nii.gz"],
        "scan.v2_1": ["scan.v2_1.nii"],
        "x_00000": ["x_00000.nii"],
    }


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".NII.GZ"])
def test_numbered_files_are_the_channels_of_one_image(ending: str) -> None:
    names = [f"{case}_000{channel}{ending}" for channel in (2, 0, 1) for case in ("b.1", "a_0", "_")]
    expected = {case: [f"{case}_000{channel}{ending}" for channel in range(3)] for case in ("_", "a_0", "b.1")}
    assert found(*names) == expected


def test_channels_may_have_different_endings_and_share_a_folder_with_whole_images() -> None:
    assert found("a_0000.nii.gz", "a_0001.nrrd", "b_0000.nii", "b_0001.nii", "c.nii", "d_001.nii", "_0000.nii") == {
        "_0000": ["_0000.nii"],
        "a": ["a_0000.nii.gz", "a_0001.nrrd"],
        "b": ["b_0000.nii", "b_0001.nii"],
        "c": ["c.nii"],
        "d_001": ["d_001.nii"],
    }


def test_a_single_channel_has_a_number_too() -> None:
    assert found("la_001_0000.nii.gz", "la_002_0000.nii.gz") == {
        "la_001": ["la_001_0000.nii.gz"],
        "la_002": ["la_002_0000.nii.gz"],
    }


def test_other_files_and_files_being_written_dont_count() -> None:
    assert found("a_0001.nii", ".writing-x_0000.nii", "._a_0000.nii", "b_0000.txt", "b_0000") == {
        "a_0001": ["a_0001.nii"]
    }


def test_segmentations_of_slicer_are_no_images(tmp_path: Path) -> None:
    """By their names, and by their content."""
    names = ("Segmentation.seg.nrrd", "b.SEG.NRRD", "a.seg.nii.gz", "a_0000.seg.nrrd", "a.seg.nhdr", "a.seg.mha")
    assert found("a.nii.gz", *names) == {"a": ["a.nii.gz"]}
    save(tmp_path / "a.nrrd", 1)
    header = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n"
    (tmp_path / "b.nrrd").write_text(f"{header}Segment0_ID:=Segment_1\n\n")
    (tmp_path / "c.nrrd").write_text(f"{header}Segmentation_ContainedRepresentationNames:=Binary labelmap|\n\n")
    # The same text in the voxels doesn't make the file a segmentation.
    (tmp_path / "d.nrrd").write_text(f"{header}\nSegment0_ID:=Segment_1\n\n")
    assert list(images_in(tmp_path)) == ["a", "d"]
    # An image that replaces a segmentation counts at once.
    save(tmp_path / "b.nrrd", 2)
    assert list(images_in(tmp_path)) == ["a", "b", "d"]


def test_of_two_endings_the_known_one_counts() -> None:
    names = ["a.nii.gz", "a.nrrd"]
    assert images_among(Path("f"), names)["a"].files == (Path("f/a.nii.gz"),)
    assert images_among(Path("f"), names, {"a": ".nrrd"})["a"].files == (Path("f/a.nrrd"),)
    assert images_among(Path("f"), names, {"a": ".nii"})["a"].files == (Path("f/a.nii.gz"),)


@pytest.mark.parametrize(
    ("names", "image", "missing"),
    [
        (["a_0000.nii", "a_0001.nii", "b_0000.nii"], "b", "folder/b_0001.nii: "),
        (["a_0000.nii", "a_0001.nii", "b_0001.nii"], "b", "folder/b_0000.nii: "),
        (["a_0000.nii", "a_0002.nii"], "a", "folder/a_0001.nii: "),
        (["a_0000.nii", "a_0003.nii"], "a", "folder/a_0001.nii and 1 more: "),
        (["a_0000.nii", "a_0001.nii", "b_0000.nrrd"], "b", "folder/b_0001.nrrd: "),
        # One wrong name doesn't make the other images faulty.
        (["a_0000.nii", "a_0001.nii", "mouse_2023.nii"], "mouse", "folder/mouse_0000.nii and 2022 more: "),
    ],
)
def test_missing_channels_are_named(names: list[str], image: str, missing: str) -> None:
    found = faults(*names)
    assert list(found) == [image]
    assert found[image].startswith(missing)
    # Files from which the missing ones follow are named, too.
    assert names[-1] in found[image]
    assert names[-2] in found[image] or image == "a"
    assert images_among(Path("folder"), names)[image].path.name.startswith(f"{image}_0000.")


@pytest.mark.parametrize("other", ["a.nii", "a.nrrd", "a_0000.nrrd", "a_0001.nrrd"])
def test_files_that_claim_the_same_part_of_an_image_are_named(other: str) -> None:
    names = ["a_0000.nii", "a_0001.nii", "b_0000.nii", "b_0001.nii", other]
    found = faults(*names)
    assert list(found) == ["a"]
    assert f"folder/{other}" in found["a"]
    assert f"folder/a_000{1 if '1' in other else 0}.nii" in found["a"]
    assert images_among(Path("folder"), names)["a"].path == Path("folder/a_0000.nii")


def save(path: Path, seed: int, dtype: type = np.int16, shape: tuple[int, ...] = SHAPE, shift: float = 0) -> Path:
    """Write noise with SimpleITK, moved by ``shift`` voxels along the first axis."""
    lps = np.diag([-1, -1, 1, 1]) @ AFFINE
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.random.default_rng(seed).integers(0, 100, shape).astype(dtype).T)
    image.SetSpacing(spacing)
    image.SetDirection((lps[:3, :3] / spacing).ravel())
    image.SetOrigin(lps[:3, 3] + shift * lps[:3, 0])
    sitk.WriteImage(image, str(path))
    return path


def itk_array(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T


@pytest.mark.parametrize("asked", [0, 1, 2])
def test_an_image_is_read_from_all_its_channels(tmp_path: Path, asked: int) -> None:
    dtypes = {np.uint8: ".nii.gz", np.int16: ".nrrd", np.float32: ".nii"}
    files = [save(tmp_path / f"a_000{n}{end}", n, dtype) for n, (dtype, end) in enumerate(dtypes.items())]
    for n in range(3):
        save(tmp_path / f"b_000{n}.nii", 10 + n)
    volume = read_volume(files[asked])
    np.testing.assert_array_equal(volume.array, [itk_array(file) for file in files])
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-6)
    assert (volume.channels, volume.shape, volume.slicer_affine) == (3, SHAPE, None)
    assert volume.name == str(files[0])


def test_channels_are_found_in_the_folder_of_their_links(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for n, name in enumerate(("t1.nii", "t2.nii")):
        os.symlink(save(tmp_path / "elsewhere" / name, n), tmp_path / f"a_000{n}.nii")
    assert read_volume(tmp_path / "a_0000.nii").channels == 2


def test_a_numbered_file_alone_is_read_as_it_is(tmp_path: Path) -> None:
    assert read_volume(save(tmp_path / "mouse_0003.nii", 3)).channels == 1
    assert read_volume(save(tmp_path / "la_0000.nrrd", 3)).channels == 1
    nibabel.save(nibabel.Nifti1Image(np.ones((*SHAPE, 3), np.uint8), AFFINE), tmp_path / "la_0000.nii")
    (tmp_path / "la_0000.nrrd").unlink()
    assert read_volume(tmp_path / "la_0000.nii").channels == 3


def test_a_missing_channel_is_an_error_that_names_it(tmp_path: Path) -> None:
    for name in ("a_0000", "a_0001", "b_0000", "b_0001"):
        save(tmp_path / f"{name}.nii.gz", 1)
    for missing, left in (("b_0001", "b_0000"), ("b_0000", "b_0001")):
        file = tmp_path / f"{missing}.nii.gz"
        content = file.read_bytes()
        file.unlink()
        for asked in (missing, left):
            with pytest.raises(InputError, match=rf"{missing}\.nii\.gz: no such file"):
                read_volume(tmp_path / f"{asked}.nii.gz")
        assert read_volume(tmp_path / "a_0000.nii.gz").channels == 2
        file.write_bytes(content)
    assert read_volume(tmp_path / "b_0000.nii.gz").channels == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shift": 0.2}, "origin"),
        ({"shape": (5, 6, 8)}, r"shape \(5, 6, 8\)"),
        ({"shape": (6, 5, 7)}, r"shape \(6, 5, 7\)"),
    ],
)
def test_a_misaligned_channel_is_an_error_that_names_it(tmp_path: Path, change: dict[str, float], words: str) -> None:
    first, file = save(tmp_path / "a_0000.nii", 0), tmp_path / "a_0001.nii"
    save(file, 1, shift=0.05)
    assert read_volume(first).channels == 2
    save(file, 1, **change)
    with pytest.raises(InputError, match=rf"a_0001\.nii: .*{words}.*a_0000\.nii"):
        read_volume(first)


def test_a_channel_in_another_order_of_voxels_is_misaligned(tmp_path: Path) -> None:
    first = save(tmp_path / "a_0000.nii", 0)
    image = nibabel.as_closest_canonical(nibabel.load(first)).slicer[:, ::-1]
    nibabel.save(image, tmp_path / "a_0001.nii")
    with pytest.raises(InputError, match=r"a_0001\.nii: the channel .*axes towards"):
        read_volume(first)


def test_a_channel_with_several_channels_is_an_error(tmp_path: Path) -> None:
    first = save(tmp_path / "a_0000.nii", 0)
    nibabel.save(nibabel.Nifti1Image(np.ones((*SHAPE, 3), np.uint8), AFFINE), tmp_path / "a_0001.nii")
    with pytest.raises(InputError, match=r"a_0001\.nii: 3 channels"):
        read_volume(first)
    (tmp_path / "a_0001.nii").rename(tmp_path / "b_0001.nii")
    first.rename(tmp_path / "b_0000.nii")
    save(tmp_path / "b_0001.nii", 1)
    nibabel.save(nibabel.Nifti1Image(np.ones((*SHAPE, 3), np.uint8), AFFINE), tmp_path / "b_0000.nii")
    with pytest.raises(InputError, match=r"b_0000\.nii: 3 channels"):
        read_volume(tmp_path / "b_0000.nii")


def test_label_maps_have_no_channels(tmp_path: Path) -> None:
    for name in ("a_0000.nii", "a_0001.nii"):
        save(tmp_path / name, 1)
    label = read_label_map(tmp_path / "a_0001.nii")
    np.testing.assert_array_equal(label.array, itk_array(tmp_path / "a_0001.nii"))


def test_files_that_are_no_images_stand_alone(tmp_path: Path) -> None:
    assert files_of(tmp_path / "none.nii") == (tmp_path / "none.nii",)
    assert files_of(tmp_path / "nowhere" / "a_0000.nii") == (tmp_path / "nowhere" / "a_0000.nii",)
    for name in ("a_0000.txt", "a.nii", "a.nrrd"):
        (tmp_path / name).touch()
        assert files_of(tmp_path / name) == (tmp_path / name,)
    assert list(images_in(tmp_path)) == ["a"]
