"""Masks that somebody puts into labels/final for images without annotation."""

import logging
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from lib.core.errors import InputError
from lib.server.store.versions import VersionStore
from lib.server.tasks.trainer import read_cases
from serving import NAMED, SHAPE, SPACING, paint, stored, wait_until, write_label
from stores import SCHEME, mask, open_store, put, trainer


def thin_tubes() -> NDArray[np.uint8]:
    """Vessels along all axes, one voxel wide."""
    dense = np.zeros(SHAPE, np.uint8)
    dense[::6, ::6] = 1
    dense[::6, :, ::5] = 2
    return dense


@pytest.mark.parametrize("array", [mask(), thin_tubes(), np.pad(mask()[5:15, 4:14], ((5, 5), (4, 4), (0, 0)))])
def test_the_meaning_of_0_is_not_guessed(
    array: NDArray[np.uint8], studies: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = put(studies, array)
    content = file.read_bytes()
    with caplog.at_level(logging.INFO):
        store = open_store(studies)
    (line,) = store.describe_left_out()
    for words in ("1 masks in labels/final aren't used (a)", "--conf unlabelled none", "--conf unlabelled 0"):
        assert words in line
    assert line in caplog.messages
    assert store.get_labeled_images() == []
    with pytest.raises(InputError, match=r"nothing is annotated.*--conf unlabelled none"):
        trainer(studies).check({}, store)
    # A training process opens the folder without serving it.
    assert read_cases(VersionStore(str(studies), SCHEME), SCHEME) == ([], [])
    caplog.clear()
    store.refresh()
    assert line not in caplog.messages
    assert file.read_bytes() == content


def test_none_is_unlabelled(studies: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = put(studies, mask()).read_bytes()
    open_store(studies)
    with caplog.at_level(logging.INFO):
        store = open_store(studies, unlabelled="none")
    assert store.describe_left_out() == []
    info = store.get_label_info("a", "final")
    filled = np.where(mask() == 0, 3, mask())
    assert info["statistics"]["voxels"] == {"inside": 32, "tubule": 568, "outside": 3720}
    assert (stored(studies, "final") == filled).all()
    assert "3720 voxels of value 0 count as outside (--conf unlabelled none)" in info["warnings"]
    assert any("32 inside, 568 tubule, 3720 outside" in message for message in caplog.messages)
    assert (studies / "labels/ready_made/a.nii.gz").read_bytes() == content
    trainer(studies).check({}, store)


def test_0_is_unlabelled(studies: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(studies, mask())
    store = open_store(studies, unlabelled="0")
    info = store.get_label_info("a", "final")
    assert (stored(studies, "final") == mask()).all()
    assert any("no outside is painted" in warning for warning in info["warnings"])
    assert any("no outside is painted" in message for message in caplog.messages)
    with pytest.raises(InputError, match="no voxel of outside"):
        trainer(studies).check({}, store)


def test_paint_on_slices_is_stored_with_the_warnings_of_a_submission(studies: Path, tmp_path: Path) -> None:
    only_structures = np.where(paint() == 3, 0, paint()).astype(np.uint8)
    put(studies, only_structures)
    put(studies, paint(), "b")
    store = open_store(studies)
    assert store.get_labeled_images() == ["a", "b"]
    for image, array in (("a", only_structures), ("b", paint())):
        info = store.get_label_info(image, "final")
        assert (stored(studies, "final", image) == array).all()
        assert any("no outside is painted" in warning for warning in info["warnings"]) == (image == "a")
        store.save_label(image, str(write_label(tmp_path / "label.nii.gz", array)), "final", NAMED)
        assert store.get_label_info(image, "final")["statistics"] == info["statistics"]


def test_a_mask_of_other_values_is_left_out_and_reported(studies: Path) -> None:
    put(studies, (mask() > 0).astype(np.uint8) * 255)
    (line,) = open_store(studies).describe_left_out()
    assert "'a'" in line
    assert "value 255" in line
    assert "1 inside, 2 tubule, 3 outside" in line


def test_a_mask_that_is_left_out_is_kept_when_somebody_submits(studies: Path, tmp_path: Path) -> None:
    content = put(studies, mask()).read_bytes()
    store = open_store(studies)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    assert (stored(studies, "final") == paint()).all()
    assert (studies / "labels/ready_made/a.nii.gz").read_bytes() == content
    assert store.describe_left_out() == []
    assert open_store(studies).get_label_info("a", "final")["version"] == 1


def test_a_changed_mask_is_read_again(studies: Path) -> None:
    put(studies, mask())
    store = open_store(studies)
    put(studies, paint())
    store.refresh()
    assert (store.get_labeled_images(), store.describe_left_out()) == (["a"], [])


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        *((ending, "segmentation") for ending in (".seg.nrrd", ".nrrd")),
        *((ending, "label map") for ending in (".seg.nrrd", ".nrrd", ".mha", ".nii", ".seg.nii.gz", ".seg.mha")),
    ],
)
def test_a_label_is_found_with_any_ending(studies: Path, ending: str, kind: str) -> None:
    """Written by ITK, as Slicer writes them."""
    image = sitk.GetImageFromArray(paint().T.copy())
    image.SetSpacing(SPACING)
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    image.SetOrigin((7, -11, 3))
    if kind == "segmentation":
        for number, name in enumerate(("inside", "tubule", "outside")):
            for key, value in {"Name": name, "LabelValue": str(number + 1), "Layer": "0"}.items():
                image.SetMetaData(f"Segment{number}_{key}", value)
    (studies / "labels/final").mkdir(parents=True)
    sitk.WriteImage(image, str(studies / f"labels/final/a{ending}"))
    store = open_store(studies)
    assert store.list_images() == ["a", "b"]
    assert store.labels_without_image() == {}
    assert (stored(studies, "final") == paint()).all()
    assert open_store(studies).get_label_info("a", "final")["version"] == 1


def test_a_label_that_is_still_being_copied_is_read_when_complete(studies: Path) -> None:
    content = put(studies, paint()).read_bytes()
    with (studies / "labels/final/a.nii.gz").open("wb") as file:
        file.write(content[:200])
        file.flush()
        store = open_store(studies, watch=True)
        assert "is left out" in store.describe_left_out()[0]
        file.write(content[200:])
    wait_until(store.get_labeled_images)
    assert (stored(studies, "final") == paint()).all()
    assert store.describe_left_out() == []


def test_a_label_that_is_copied_in_parts_beside_a_server_is_read_when_complete(studies: Path) -> None:
    content = put(studies, paint()).read_bytes()
    (studies / "labels/final/a.nii.gz").unlink()
    store = open_store(studies, watch=True)
    with (studies / "labels/final/a.nii.gz").open("wb") as file:
        for start in range(0, len(content), 100):
            file.write(content[start : start + 100])
            file.flush()
    wait_until(store.get_labeled_images)
    assert (stored(studies, "final") == paint()).all()
    assert store.describe_left_out() == []


def test_a_label_is_not_confused_with_one_of_a_longer_name(studies: Path) -> None:
    """Image ids may have dots: only a known ending counts as the ending."""
    (studies / "a.nii.gz").rename(studies / "b.x.nii.gz")
    put(studies, paint(), "b.x")
    put(studies, mask(), "b")
    store = open_store(studies)
    assert store.get_labeled_images() == ["b.x"]
    assert "(b)" in store.describe_left_out()[0]


@pytest.mark.parametrize("there", [True, False], ids=["annotated", "new"])
def test_a_broken_link_stops_nothing(there: bool, studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    if there:
        store.save_label("b", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    (studies / "labels/final").mkdir(parents=True, exist_ok=True)
    (studies / "labels/final/b.nii.gz").unlink(missing_ok=True)
    (studies / "labels/final/b.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    (studies / "labels/final/c.nii.gz").mkdir()
    store = open_store(studies)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    store.refresh()
    assert "a" in store.get_labeled_images()
    store.describe_left_out()
    cases, _ = read_cases(VersionStore(str(studies), SCHEME), SCHEME)
    assert [case.id for case in cases] == ["a"]


def test_a_label_that_is_renamed_into_place_is_noticed(studies: Path) -> None:
    """rsync does this: its files have a leading dot until they are complete."""
    (studies / "labels/final").mkdir(parents=True)
    store = open_store(studies, watch=True)
    write_label(studies / "labels/final/.a.nii.gz.Xy12.nii.gz", paint())
    (studies / "labels/final/.a.nii.gz.Xy12.nii.gz").rename(studies / "labels/final/a.nii.gz")
    wait_until(store.get_labeled_images)
