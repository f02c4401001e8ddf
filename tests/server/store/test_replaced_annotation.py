"""Labels that somebody puts into labels/final over or beside an annotation."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib.core.labels import LabelScheme
from lib.server.store import change
from lib.server.store.change import Change, Written
from lib.server.store.datastore import AnnotationStore
from lib.server.store.journal import Journal
from lib.server.store.versions import VersionStore
from lib.server.tasks.trainer import read_cases
from serving import NAMED, paint, stored, write_label
from stores import SCHEME, corrected, in_child, lose_index, mask, open_store, put, refusal


@pytest.mark.parametrize("running", [True, False])
def test_a_label_put_over_an_annotation_becomes_its_next_version(running: bool, studies: Path, tmp_path: Path) -> None:
    """This happens if somebody opens the annotation in another program and saves it in place."""
    store = open_store(studies)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    content = put(studies, corrected()).read_bytes()
    if running:
        store.refresh()
    else:
        store = open_store(studies)
    assert (stored(studies, "version_1") == paint()).all()
    for tag in ("version_2", "final"):
        assert (stored(studies, tag) == corrected()).all()
        assert store.get_label_info("a", tag)["version"] == 2
    assert (studies / "labels/ready_made/a.nii.gz").read_bytes() == content
    # The next server knows what this one wrote.
    assert sorted(open_store(studies).versions("a")) == [1, 2]


def test_an_earlier_version_copied_over_the_newest_becomes_the_next(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    for array in (paint(), corrected()):
        store.save_label("a", str(write_label(tmp_path / "label.nii.gz", array)), "final", NAMED)
    shutil.copyfile(studies / "labels/version_1/a.nii.gz", studies / "labels/final/a.nii.gz")
    store.refresh()
    assert sorted(store.versions("a")) == [1, 2, 3]
    assert (stored(studies, "final") == paint()).all()


def test_a_label_beside_an_annotation_becomes_its_next_version(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    write_label(studies / "labels/final/a.nii", corrected())
    store.refresh()
    assert (stored(studies, "version_2") == corrected()).all()
    assert (stored(studies, "final") == corrected()).all()
    assert [path.name for path in (studies / "labels/final").glob("a.nii*")] == ["a.nii.gz"]
    assert (studies / "labels/ready_made/a.nii").exists()


def test_a_label_put_over_an_annotation_is_kept_when_somebody_submits_first(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    content = put(studies, corrected()).read_bytes()
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    assert (stored(studies, "final") == paint()).all()
    assert (studies / "labels/ready_made/a.nii.gz").read_bytes() == content


@pytest.mark.parametrize("content", ["other values", "undecided", "damaged"])
def test_an_unusable_label_over_an_annotation_is_reported_and_stays(
    content: str, studies: Path, tmp_path: Path
) -> None:
    """It may be half written, or nobody has specified yet what 0 means."""
    store = open_store(studies)
    for image in ("a", "b"):
        store.save_label(image, str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    file = put(studies, mask() if content == "undecided" else mask() + 100)
    whole = file.read_bytes()
    if content == "damaged":
        put(studies, corrected())
        whole = file.read_bytes()
        file.write_bytes(whole[:-40])
    store.refresh()
    for opened in (store, open_store(studies)):
        assert opened.get_labeled_images() == ["b"]
        (line,) = opened.describe_left_out()
        assert "(a)" in line if content == "undecided" else "Move the file away to go on with version 1" in line
    file.unlink()
    store.refresh()
    assert store.get_label_info("a", "final")["version"] == 1
    assert (stored(studies, "final") == paint()).all()
    assert store.describe_left_out() == []
    # It is stored as a version once it is complete, or the meaning of 0 is specified.
    file.write_bytes(whole)
    store = open_store(studies, unlabelled="none" if content == "undecided" else None)
    assert sorted(store.versions("a")) == ([1] if content == "other values" else [1, 2])


def test_an_unusable_label_beside_an_annotation_is_reported(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    write_label(studies / "labels/final/a.nii", mask() + 100)
    store.refresh()
    assert (stored(studies, "final") == paint()).all()
    (line,) = store.describe_left_out()
    assert "(a.nii)" in line
    assert sorted(open_store(studies).versions("a")) == [1]


def test_labels_stored_without_checksums_are_trusted(studies: Path, tmp_path: Path) -> None:
    """This includes labels that were converted to another scheme, which differ from the file of their version."""
    open_store(studies).save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    put(studies, corrected())
    for path in (studies / "labels").glob("*/a.json"):
        info = json.loads(path.read_text())
        del info["crc32"]
        path.write_text(json.dumps(info))
    lose_index(studies)
    assert sorted(open_store(studies).versions("a")) == [1]
    # From now on its checksum is known.
    put(studies, paint()[::-1])
    assert sorted(open_store(studies).versions("a")) == [1, 2]


def test_a_training_process_leaves_out_labels_that_are_no_version_yet(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    for image in ("a", "b"):
        store.save_label(image, str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    put(studies, corrected())
    cases, left_out = read_cases(VersionStore(str(studies), SCHEME), SCHEME)
    assert [case.id for case in cases] == ["b"]
    assert "the server hasn't stored it as a version yet" in str(left_out)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("renamed", [1, 2, 3])
def test_an_interrupted_change_of_scheme_makes_no_new_version(studies: Path, tmp_path: Path, renamed: int) -> None:
    """If the server is killed between renaming the file and its info, the values are new and the names old."""
    open_store(studies).save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    swapped = LabelScheme(("tubule", "inside"), "outside")
    before = stored(studies, "final")

    def killed() -> None:
        rename, done = change.replace, 0

        def replace(source: Path, target: Path) -> None:
            nonlocal done
            done += 1
            rename(source, target)
            if done == renamed:
                os._exit(9)

        change.replace = replace  # type: ignore[assignment]
        AnnotationStore(str(studies), swapped).serve(watch=False)

    assert in_child(killed) == 9
    assert not (stored(studies, "final") == before).all()
    for scheme, values in ((SCHEME, [0, 1, 2, 3]), (swapped, [0, 2, 1, 3])):
        store = AnnotationStore(str(studies), scheme)
        store.serve(watch=False)
        assert sorted(store.versions("a")) == [1]
        assert (stored(studies, "final") == np.array(values)[paint()]).all()
        assert list(store.current("a")["label_names"]) == list(scheme.classes)


@pytest.mark.parametrize("version", [1, 2])
def test_a_version_of_another_scheme_copied_over_final_keeps_its_classes(
    version: int, studies: Path, tmp_path: Path
) -> None:
    store = open_store(studies)
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


def test_an_interrupted_adoption_makes_no_second_version(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    put(studies, corrected())
    with pytest.MonkeyPatch.context() as patch:
        # This happens on Windows, while another program has the file open.
        patch.setattr(change, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "in use")))
        for _ in range(3):
            store.refresh()
    store.refresh()
    assert sorted(store.versions("a")) == [1, 2]
    assert store.get_label_info("a", "final")["version"] == 2
    assert (stored(studies, "final") == corrected()).all()


def test_a_link_to_a_file_of_another_name_is_read(studies: Path, tmp_path: Path) -> None:
    """git-annex and DVC store large files like this."""
    store = open_store(studies)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    shutil.move(studies / "labels/final/a.nii.gz", tmp_path / "KEY.nii.gz")
    (studies / "labels/final/a.nii.gz").symlink_to(tmp_path / "KEY.nii.gz")
    assert sorted(open_store(studies).versions("a")) == [1]
    (studies / "labels/final/a.nii.gz").unlink()
    (studies / "labels/final/a.nii.gz").symlink_to(write_label(tmp_path / "OTHER.nii.gz", corrected()))
    assert sorted(open_store(studies).versions("a")) == [1, 2]
    assert (stored(studies, "final") == corrected()).all()


def test_a_label_put_there_while_final_is_rewritten_is_kept(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    (studies / "labels/final/a.nii.gz").unlink()
    content = b""

    write = Change.write_label

    def slowly(*arguments: Any) -> Written:
        nonlocal content
        written = write(*arguments)
        content = put(studies, corrected()).read_bytes()
        return written

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Change, "write_label", slowly)
        store.refresh()
    assert content
    assert (studies / "labels/ready_made/a.nii.gz").read_bytes() == content


def test_a_label_put_there_just_before_final_is_renamed_is_kept(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    label = write_label(tmp_path / "label.nii.gz", paint())
    store.save_label("a", str(label), "final", NAMED)
    begin, content = Journal.begin, b""

    def slowly(*arguments: Any) -> None:
        nonlocal content
        begin(*arguments)
        content = put(studies, corrected()).read_bytes()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "begin", slowly)
        with refusal(400, "final/a.nii.gz", "somebody else wrote this file just now"):
            store.save_label("a", str(label), "final", NAMED)
    assert (studies / "labels/final/a.nii.gz").read_bytes() == content
    store.refresh()
    assert (stored(studies, "version_2") == corrected()).all()
    assert (studies / "labels/ready_made/a.nii.gz").read_bytes() == content


def test_submissions_work_after_the_folder_was_removed(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    for number in (1, 2):
        store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
        assert store.get_label_info("a", "final")["version"] == number
        shutil.rmtree(studies / "labels/final")
