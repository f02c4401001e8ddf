"""Masks that somebody puts into labels/final."""

import json
import logging
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.volumes.reading import write_label_map
from lib.server.conf import Conf
from lib.server.store import versions
from lib.server.store.datastore import AnnotationStore
from lib.server.store.versions import VersionStore
from lib.server.tasks.trainer import Trainer, read_cases
from serving import NAMED, SHAPE, SPACING, paint, stored, wait_until, write_label

SCHEME = LabelScheme(("inside", "tubule"), "outside")


def mask() -> NDArray[np.uint8]:
    """A dense mask as nnU-Net has it: 0 is the background."""
    dense = np.zeros(SHAPE, np.uint8)
    dense[5:15, 4:14, 3:9] = 2
    dense[8:12, 7:11, 5:7] = 1
    return dense


def put(studies: Path, array: NDArray[np.uint8], image: str = "a") -> Path:
    (studies / "labels/final").mkdir(parents=True, exist_ok=True)
    return write_label(studies / f"labels/final/{image}.nii.gz", array)


def serve(studies: Path, **options: object) -> AnnotationStore:
    store = AnnotationStore(str(studies), SCHEME, **options)  # type: ignore[arg-type]
    store.serve(watch=False)
    return store


def trainer(studies: Path) -> Trainer:
    return Trainer(Conf.parse({"width": "2"}, "/app", str(studies)))


def thin_tubes() -> NDArray[np.uint8]:
    """Vessels along all axes, one voxel wide."""
    dense = np.zeros(SHAPE, np.uint8)
    dense[::6, ::6] = 1
    dense[::6, :, ::5] = 2
    return dense


@pytest.mark.parametrize("array", [mask(), thin_tubes(), np.pad(mask()[5:15, 4:14], ((5, 5), (4, 4), (0, 0)))])
def test_nobody_guesses_what_0_means(array: NDArray[np.uint8], studies: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = put(studies, array)
    content = file.read_bytes()
    with caplog.at_level(logging.INFO):
        store = serve(studies)
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
    serve(studies)
    with caplog.at_level(logging.INFO):
        store = serve(studies, unlabelled="none")
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
    store = serve(studies, unlabelled="0")
    info = store.get_label_info("a", "final")
    assert (stored(studies, "final") == mask()).all()
    assert any("no outside is painted" in warning for warning in info["warnings"])
    assert any("no outside is painted" in message for message in caplog.messages)
    with pytest.raises(InputError, match="no voxel of outside"):
        trainer(studies).check({}, store)


def test_paint_on_slices_is_taken_with_the_warnings_of_a_submission(studies: Path, tmp_path: Path) -> None:
    only_structures = np.where(paint() == 3, 0, paint()).astype(np.uint8)
    put(studies, only_structures)
    put(studies, paint(), "b")
    store = serve(studies)
    assert store.get_labeled_images() == ["a", "b"]
    for image, array in (("a", only_structures), ("b", paint())):
        info = store.get_label_info(image, "final")
        assert (stored(studies, "final", image) == array).all()
        assert any("no outside is painted" in warning for warning in info["warnings"]) == (image == "a")
        store.save_label(image, str(write_label(tmp_path / "label.nii.gz", array)), "final", NAMED)
        assert store.get_label_info(image, "final")["statistics"] == info["statistics"]


def test_a_mask_of_other_values_is_left_out_and_named(studies: Path) -> None:
    put(studies, (mask() > 0).astype(np.uint8) * 255)
    (line,) = serve(studies).describe_left_out()
    assert "'a'" in line
    assert "value 255" in line
    assert "1 inside, 2 tubule, 3 outside" in line


def test_a_mask_that_is_left_out_is_kept_when_somebody_submits(studies: Path, tmp_path: Path) -> None:
    content = put(studies, mask()).read_bytes()
    store = serve(studies)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    assert (stored(studies, "final") == paint()).all()
    assert (studies / "labels/ready_made/a.nii.gz").read_bytes() == content
    assert store.describe_left_out() == []
    assert serve(studies).get_label_info("a", "final")["version"] == 1


def test_a_mask_is_looked_at_again_once_it_is_another(studies: Path) -> None:
    put(studies, mask())
    store = serve(studies)
    put(studies, paint())
    store.refresh()
    assert (store.get_labeled_images(), store.describe_left_out()) == (["a"], [])


def test_a_header_corrected_after_painting_is_told_and_mended(studies: Path, tmp_path: Path) -> None:
    store = serve(studies)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    image = nibabel.load(studies / "a.nii.gz")
    corrected = np.diag([0.5, 0.5, 1.3, 1.0])
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), corrected), studies / "a.nii.gz")
    store.refresh()
    offer = r"same voxels as version 1 .*voxel size 0\.5 × 0\.5 × 1\.3 mm.*annotations restore a 1 --by-voxel --studies"
    with pytest.raises(InputError, match=offer):
        store.check_image("a")
    assert store.is_unreadable("a")
    with pytest.raises(InputError, match=offer):
        store.restore("a", 1, by_voxel=False)
    info = store.restore("a", 1, by_voxel=True)
    assert info["warnings"] == ["version 1 was painted in another geometry and was taken over voxel by voxel"]
    assert (stored(studies, "final") == paint()).all()
    assert np.allclose(nibabel.load(studies / "labels/original/a.nii.gz").affine, corrected)
    store.check_image("a")
    assert not store.is_unreadable("a")
    with pytest.raises(InputError, match="version 2 is the current one already"):
        store.restore("a", 2)


def test_by_voxel_keeps_the_voxels_where_only_directions_were_corrected(studies: Path, tmp_path: Path) -> None:
    """A mirrored header fills the same box, so that paint could be placed in space too, but on the wrong side."""
    store = serve(studies)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    image = nibabel.load(studies / "a.nii.gz")
    mirrored = image.affine @ np.diag([-1, 1, 1, 1])
    mirrored[:3, 3] = image.affine[:3] @ [image.shape[0] - 1, 0, 0, 1]
    write_label(studies / "a.nii.gz", np.asarray(image.dataobj), mirrored)
    store.refresh()
    store.restore("a", 1, by_voxel=True)
    assert (stored(studies, "final") == paint()).all()
    assert not (paint() == paint()[::-1]).all()


def test_an_image_of_another_shape_can_be_painted_anew(studies: Path, tmp_path: Path) -> None:
    store = serve(studies)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    write_label(studies / "a.nii.gz", np.ones((20, 18, 13), np.uint8))
    store.check_image("a")
    with pytest.raises(InputError, match="another image has come in its place"):
        store.restore("a", 1)


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        *((ending, "segmentation") for ending in (".seg.nrrd", ".nrrd")),
        *((ending, "label map") for ending in (".seg.nrrd", ".nrrd", ".mha", ".nii", ".seg.nii.gz", ".seg.mha")),
    ],
)
def test_a_label_is_found_by_whatever_ending(studies: Path, ending: str, kind: str) -> None:
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
    store = serve(studies)
    assert store.list_images() == ["a", "b"]
    assert store.labels_without_image() == {}
    assert (stored(studies, "final") == paint()).all()
    assert serve(studies).get_label_info("a", "final")["version"] == 1


def corrected() -> NDArray[np.uint8]:
    """The paint with a voxel of another class."""
    other = paint()
    other[10, 9, 6] = 2
    assert not (other == paint()).all()
    return other


@pytest.mark.parametrize("running", [True, False])
def test_a_label_that_is_put_over_an_annotation_is_its_next_version(
    running: bool, studies: Path, tmp_path: Path
) -> None:
    """As when somebody opens it in another program and saves it in place."""
    store = serve(studies)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    content = put(studies, corrected()).read_bytes()
    if running:
        store.refresh()
    else:
        store = serve(studies)
    assert (stored(studies, "version_1") == paint()).all()
    for tag in ("version_2", "final"):
        assert (stored(studies, tag) == corrected()).all()
        assert store.get_label_info("a", tag)["version"] == 2
    assert (studies / "labels/ready_made/a.nii.gz").read_bytes() == content
    # What a server writes is no news to the next one.
    assert sorted(serve(studies).versions("a")) == [1, 2]


def test_an_earlier_version_that_is_copied_over_the_newest_is_the_next(studies: Path, tmp_path: Path) -> None:
    store = serve(studies)
    for array in (paint(), corrected()):
        store.save_label("a", str(write_label(tmp_path / "label.nii.gz", array)), "final", NAMED)
    shutil.copyfile(studies / "labels/version_1/a.nii.gz", studies / "labels/final/a.nii.gz")
    store.refresh()
    assert sorted(store.versions("a")) == [1, 2, 3]
    assert (stored(studies, "final") == paint()).all()


def test_a_label_beside_an_annotation_is_its_next_version(studies: Path, tmp_path: Path) -> None:
    store = serve(studies)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    write_label(studies / "labels/final/a.nii", corrected())
    store.refresh()
    assert (stored(studies, "version_2") == corrected()).all()
    assert (stored(studies, "final") == corrected()).all()
    assert [path.name for path in (studies / "labels/final").glob("a.nii*")] == ["a.nii.gz"]
    assert (studies / "labels/ready_made/a.nii").exists()


def test_a_label_that_is_put_over_an_annotation_is_kept_when_somebody_submits_first(
    studies: Path, tmp_path: Path
) -> None:
    store = serve(studies)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    content = put(studies, corrected()).read_bytes()
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    assert (stored(studies, "final") == paint()).all()
    assert (studies / "labels/ready_made/a.nii.gz").read_bytes() == content


@pytest.mark.parametrize("content", ["other values", "undecided", "damaged"])
def test_a_useless_label_over_an_annotation_is_named_and_stays(content: str, studies: Path, tmp_path: Path) -> None:
    """It may be half written, or somebody has yet to say what it means."""
    store = serve(studies)
    for image in ("a", "b"):
        store.save_label(image, str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    file = put(studies, mask() if content == "undecided" else mask() + 100)
    whole = file.read_bytes()
    if content == "damaged":
        put(studies, corrected())
        whole = file.read_bytes()
        file.write_bytes(whole[:-40])
    store.refresh()
    for opened in (store, serve(studies)):
        assert opened.get_labeled_images() == ["b"]
        (line,) = opened.describe_left_out()
        assert "(a)" in line if content == "undecided" else "Move the file away to go on with version 1" in line
    file.unlink()
    store.refresh()
    assert store.get_label_info("a", "final")["version"] == 1
    assert (stored(studies, "final") == paint()).all()
    assert store.describe_left_out() == []
    # What is written to its end, or said what it means, is taken.
    file.write_bytes(whole)
    store = serve(studies, unlabelled="none" if content == "undecided" else None)
    assert sorted(store.versions("a")) == ([1] if content == "other values" else [1, 2])


def test_a_useless_label_beside_an_annotation_is_named(studies: Path, tmp_path: Path) -> None:
    store = serve(studies)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    write_label(studies / "labels/final/a.nii", mask() + 100)
    store.refresh()
    assert (stored(studies, "final") == paint()).all()
    (line,) = store.describe_left_out()
    assert "(a.nii)" in line
    assert sorted(serve(studies).versions("a")) == [1]


def test_what_a_server_without_checksums_stored_is_trusted(studies: Path, tmp_path: Path) -> None:
    """Also where the values were brought to another scheme, so that it isn't the file of its version."""
    serve(studies).save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    put(studies, corrected())
    for path in (studies / "labels").glob("*/a.json"):
        info = json.loads(path.read_text())
        del info["crc32"]
        path.write_text(json.dumps(info))
    (studies / "datastore_v2.json").unlink()
    assert sorted(serve(studies).versions("a")) == [1]
    # From now on it is known.
    put(studies, paint()[::-1])
    assert sorted(serve(studies).versions("a")) == [1, 2]


def test_a_label_that_is_still_being_copied_is_taken_at_its_end(
    studies: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = put(studies, paint()).read_bytes()
    (studies / "labels/final/a.nii.gz").unlink()
    store = AnnotationStore(str(studies), SCHEME)
    store.serve(watch=True)
    with (studies / "labels/final/a.nii.gz").open("wb") as file:
        file.write(content[:200])
        file.flush()
        wait_until(lambda: "is left out" in caplog.text)
        file.write(content[200:])
    wait_until(store.get_labeled_images)
    assert (stored(studies, "final") == paint()).all()
    assert store.describe_left_out() == []


def test_a_label_is_told_from_one_of_a_longer_name(studies: Path) -> None:
    """Image ids may have dots: the ending is what is known as one."""
    (studies / "a.nii.gz").rename(studies / "b.x.nii.gz")
    put(studies, paint(), "b.x")
    put(studies, mask(), "b")
    store = serve(studies)
    assert store.get_labeled_images() == ["b.x"]
    assert "(b)" in store.describe_left_out()[0]


def test_a_training_process_leaves_out_what_no_server_has_taken_over_yet(studies: Path, tmp_path: Path) -> None:
    store = serve(studies)
    for image in ("a", "b"):
        store.save_label(image, str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    put(studies, corrected())
    cases, left_out = read_cases(VersionStore(str(studies), SCHEME), SCHEME)
    assert [case.id for case in cases] == ["b"]
    assert "the server hasn't taken it over as a version yet" in str(left_out)


def test_a_change_of_scheme_that_was_cut_short_is_no_new_version(studies: Path, tmp_path: Path) -> None:
    """Killed between the file and what is known of it, the file has the new values and the old names."""
    serve(studies).save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    swapped = LabelScheme(("tubule", "inside"), "outside")
    known = (studies / "labels/final/a.json").read_bytes()
    written = VersionStore._store_info

    def killed(store: VersionStore, image_id: str, tag: str, info: dict[str, object]) -> None:
        if tag == "final":
            raise KeyboardInterrupt
        written(store, image_id, tag, info)

    store = AnnotationStore(str(studies), swapped)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VersionStore, "_store_info", killed)
        with pytest.raises(KeyboardInterrupt):
            store.serve(watch=False)
    assert (studies / "labels/final/a.json").read_bytes() != known
    assert (stored(studies, "final") == np.array([0, 2, 1, 3])[paint()]).all()
    for scheme, values in ((SCHEME, [0, 1, 2, 3]), (swapped, [0, 2, 1, 3])):
        store = AnnotationStore(str(studies), scheme)
        store.serve(watch=False)
        assert sorted(store.versions("a")) == [1]
        assert (stored(studies, "final") == np.array(values)[paint()]).all()


@pytest.mark.parametrize("version", [1, 2])
def test_a_version_of_another_scheme_that_is_copied_over_final_keeps_its_classes(
    version: int, studies: Path, tmp_path: Path
) -> None:
    store = serve(studies)
    for array in (corrected(), paint()):
        store.save_label("a", str(write_label(tmp_path / "label.nii.gz", array)), "final", NAMED)
    swapped = AnnotationStore(str(studies), LabelScheme(("tubule", "inside"), "outside"))
    swapped.serve(watch=False)
    shutil.copyfile(studies / f"labels/version_{version}/a.nii.gz", studies / "labels/final/a.nii.gz")
    swapped.refresh()
    expected = paint() if version == 2 else corrected()
    assert (stored(studies, "final") == np.array([0, 2, 1, 3])[expected]).all()
    assert sorted(swapped.versions("a")) == ([1, 2] if version == 2 else [1, 2, 3])
    assert swapped.get_label_info("a", "final")["restored_version"] == (None if version == 2 else 1)


def test_a_takeover_that_was_cut_short_is_no_second_version(studies: Path, tmp_path: Path) -> None:
    store = serve(studies)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    put(studies, corrected())
    with pytest.MonkeyPatch.context() as patch:
        # As on Windows, while another program has the file open.
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(PermissionError(13, "in use")))
        for _ in range(3):
            store.refresh()
    store.refresh()
    assert sorted(store.versions("a")) == [1, 2]
    assert store.get_label_info("a", "final")["version"] == 2
    assert (stored(studies, "final") == corrected()).all()


@pytest.mark.parametrize("there", [True, False], ids=["annotated", "new"])
def test_a_link_to_nowhere_stops_nothing(there: bool, studies: Path, tmp_path: Path) -> None:
    store = serve(studies)
    if there:
        store.save_label("b", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    (studies / "labels/final").mkdir(parents=True, exist_ok=True)
    (studies / "labels/final/b.nii.gz").unlink(missing_ok=True)
    (studies / "labels/final/b.nii.gz").symlink_to(tmp_path / "gone.nii.gz")
    (studies / "labels/final/c.nii.gz").mkdir()
    store = serve(studies)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    store.refresh()
    assert "a" in store.get_labeled_images()
    store.describe_left_out()
    cases, _ = read_cases(VersionStore(str(studies), SCHEME), SCHEME)
    assert [case.id for case in cases] == ["a"]


def test_a_link_to_a_file_of_another_name_is_taken(studies: Path, tmp_path: Path) -> None:
    """As git-annex and DVC keep large files."""
    store = serve(studies)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    shutil.move(studies / "labels/final/a.nii.gz", tmp_path / "KEY.nii.gz")
    (studies / "labels/final/a.nii.gz").symlink_to(tmp_path / "KEY.nii.gz")
    assert sorted(serve(studies).versions("a")) == [1]
    (studies / "labels/final/a.nii.gz").unlink()
    (studies / "labels/final/a.nii.gz").symlink_to(write_label(tmp_path / "OTHER.nii.gz", corrected()))
    assert sorted(serve(studies).versions("a")) == [1, 2]
    assert (stored(studies, "final") == corrected()).all()


def test_what_is_put_there_while_final_is_made_again_is_kept(studies: Path, tmp_path: Path) -> None:
    store = serve(studies)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    (studies / "labels/final/a.nii.gz").unlink()
    content = b""

    def slowly(path: Path, *arguments: object) -> None:
        nonlocal content
        write_label_map(path, *arguments)  # type: ignore[arg-type]
        content = put(studies, corrected()).read_bytes()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(versions, "write_label_map", slowly)
        store.refresh()
    assert content
    assert (studies / "labels/ready_made/a.nii.gz").read_bytes() == content


def test_submissions_go_on_where_the_folder_was_removed(studies: Path, tmp_path: Path) -> None:
    store = serve(studies)
    for number in (1, 2):
        store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
        assert store.get_label_info("a", "final")["version"] == number
        shutil.rmtree(studies / "labels/final")


def test_a_label_that_is_renamed_into_place_is_noticed(studies: Path) -> None:
    """As by rsync, whose files have a leading dot until they are complete."""
    (studies / "labels/final").mkdir(parents=True)
    store = AnnotationStore(str(studies), SCHEME)
    store.serve(watch=True)
    write_label(studies / "labels/final/.a.nii.gz.Xy12.nii.gz", paint())
    (studies / "labels/final/.a.nii.gz.Xy12.nii.gz").rename(studies / "labels/final/a.nii.gz")
    wait_until(store.get_labeled_images)
