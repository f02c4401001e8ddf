"""Versions listed, compared and restored by the command, without a server; files are read with nibabel and json."""

import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lib.commands.annotations import describe_differences, list_versions, restore_version, show_version
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.server.store.datastore import AnnotationStore
from serving import APP, as_slicer_sends, paint, snapshot, stored, write_image, write_label
from stores import index_of, lose_index

SCHEME = LabelScheme(("inside", "tubule"), "outside")
CLASSES = ("", "inside", "tubule", "outside")


def open_store(studies: Path, scheme: LabelScheme = SCHEME) -> AnnotationStore:
    store = AnnotationStore(str(studies), scheme)
    store.serve(watch=False)
    return store


def submit(studies: Path, annotation: NDArray[np.uint8], client_id: str | None = None, image: str = "a") -> None:
    label, params = as_slicer_sends(annotation)
    file = write_label(studies.parent / f"label-{threading.get_ident()}.nii.gz", label)
    AnnotationStore(str(studies), SCHEME).save_label(image, str(file), "final", {**params, "client_id": client_id})


def second() -> NDArray[np.uint8]:
    """``paint`` with one more slice, without another one, and with a stroke of another class."""
    annotation = paint()
    annotation[2], annotation[6], annotation[10, 5:9, 2] = 3, 0, 1
    return annotation


def info(studies: Path, tag: str) -> dict[str, object]:
    return dict(json.loads((studies / "labels" / tag / "a.json").read_text()))


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A folder with an image of two versions, and one that nobody annotated."""
    folder = tmp_path / "studies"
    folder.mkdir()
    write_image(folder / "a.nii.gz", seed=1)
    write_image(folder / "b.nii.gz", seed=2)
    open_store(folder)
    submit(folder, paint(), "alice")
    submit(folder, second())
    return folder


def test_list(studies: Path) -> None:
    before = snapshot(studies)
    lines = list_versions(studies).splitlines()
    assert lines[0] == "a:"
    assert re.fullmatch(r"  version 1   \d{4}-\d\d-\d\d \d\d:\d\d UTC  alice           33.33 % labelled", lines[1])
    slices = "axis 0 (L-R, sagittal): 6, 10; axis 1 (P-A, coronal): 5, 9; axis 2 (I-S, axial): 4, 6"
    assert lines[2].strip() == f"annotated slices: {slices}"
    percent = 100 * np.count_nonzero(second()) / second().size
    assert lines[3].endswith(f"unnamed client  {percent:.2f} % labelled, the current one")
    assert lines[4].strip() == f"annotated slices: {slices.replace('6, 10', '2, 10')}"
    assert lines[5:] == ["b: not annotated"]
    assert snapshot(studies) == before


def test_a_version_is_not_compared_with_itself(studies: Path) -> None:
    with pytest.raises(InputError, match="--against 1: that is the version itself"):
        show_version(studies, "a", 1, 1)


def test_annotations_without_an_image_are_listed(studies: Path) -> None:
    (studies / "a.nii.gz").rename(studies.parent / "a.nii.gz")
    assert list_versions(studies).splitlines() == [
        "b: not annotated",
        f"a: final, original, version_1, version_2 kept, but {studies} has no image of this name; put its file back",
    ]


@pytest.mark.parametrize("against", [None, 2])
def test_show_compares_with_the_current_version(studies: Path, against: int | None) -> None:
    text = show_version(studies, "a", 1, against)
    assert "version 2 (current)" in text
    counts = [[np.count_nonzero(annotation == value) for annotation in (paint(), second())] for value in (1, 2, 3)]
    for name, (one, two) in zip(CLASSES[1:], counts, strict=True):
        assert re.search(rf"^{name} +{one} +{two}$", text, re.MULTILINE)
    assert re.search(r"^client +alice +unnamed client$", text, re.MULTILINE)
    assert "annotated slices in version 1 only: axis 0 (L-R, sagittal): 6\n" in text
    assert "annotated slices in version 2 only: axis 0 (L-R, sagittal): 2\n" in text
    gone = np.count_nonzero((paint() > 0) & (second() == 0))
    assert f"voxels labelled in version 1 only: {gone} (" in text


def test_the_current_version_is_compared_with_the_previous_one(studies: Path) -> None:
    assert "voxels labelled in version 1 only" in show_version(studies, "a", 2, None)


def test_show_a_single_version(studies: Path) -> None:
    for path in studies.glob("labels/*/a.*"):
        path.unlink()
    lose_index(studies)
    submit(studies, paint())
    text = show_version(studies, "a", 1, None)
    assert "annotated slices: axis 0 (L-R, sagittal): 6, 10;" in text
    assert "only" not in text


def test_differences_against_a_plain_count() -> None:
    first, other = np.random.default_rng(0).integers(0, 4, (2, 7, 6, 5)).astype(np.uint8)
    removed, added, same = (dict.fromkeys(CLASSES[1:], 0) for _ in range(3))
    changed: dict[str, int] = {}
    for a, b in zip(first.ravel(), other.ravel(), strict=True):
        if a and not b:
            removed[CLASSES[a]] += 1
        elif b and not a:
            added[CLASSES[b]] += 1
        elif a and a == b:
            same[CLASSES[a]] += 1
        elif a:
            key = f"{CLASSES[a]} in one but {CLASSES[b]} in two"
            changed[key] = changed.get(key, 0) + 1
    expected = zip(
        ("labelled in one only", "labelled in two only", "of another class", "the same in both"),
        (removed, added, changed, same),
        strict=True,
    )
    for line, (what, counts) in zip(
        describe_differences(first, other, CLASSES[1:], ("one", "two")), expected, strict=True
    ):
        found = re.fullmatch(rf"voxels {what}: (\d+) \((.*)\)", line)
        assert found
        assert int(found[1]) == sum(counts.values())
        listed = dict(reversed(part.split(" ", 1)) for part in found[2].split(", "))
        assert listed == {name: str(count) for name, count in counts.items()}
    assert describe_differences(first, first, CLASSES[1:], ("one", "two")) == ["the two are the same, voxel for voxel"]


def test_restore_stores_another_version(studies: Path) -> None:
    before = {tag: snapshot(studies / "labels" / tag) for tag in ("version_1", "version_2")}
    assert "Version 3 of a is version 1 restored" in restore_version(studies, "a", 1)
    for tag in ("version_3", "final"):
        assert (stored(studies, tag) == paint()).all()
        assert (info(studies, tag)["version"], info(studies, tag)["restored_version"]) == (3, 1)
    assert (stored(studies, "original") == np.where(paint() > 0, paint() + 3, 0)).all()
    assert {tag: snapshot(studies / "labels" / tag) for tag in before} == before
    # A server that starts now finds nothing to do.
    kept = snapshot(studies / "labels")
    assert open_store(studies).get_label_info("a", "final")["version"] == 3
    assert snapshot(studies / "labels") == kept
    assert "version 1 restored" in list_versions(studies)


def test_restore_uses_the_scheme_of_the_last_server(studies: Path) -> None:
    # The annotation of b isn't converted, as happens if its image can't be read.
    submit(studies, paint(), image="b")
    (studies / "b.nii.gz").write_bytes(b"x")
    wider = LabelScheme(("vessel", "tubule", "inside"), "outside")
    open_store(studies, wider)
    restore_version(studies, "a", 1)
    for voxel, value in np.ndenumerate(stored(studies, "final")):
        assert ["", "", "tubule", "inside", "outside"][value] == CLASSES[paint()[voxel]]
    assert info(studies, "version_3")["label_names"] == {"vessel": 1, "tubule": 2, "inside": 3, "outside": 4}
    # Versions with different values for the same classes.
    assert show_version(studies, "a", 1, 3).endswith("the two are the same, voxel for voxel")


def test_versions_with_other_classes_can_be_shown_but_not_restored(studies: Path) -> None:
    only_outside = np.where(paint() == 3, 3, 0).astype(np.uint8)
    submit(studies, only_outside)
    open_store(studies, LabelScheme(("nucleus",), "outside"))
    text = show_version(studies, "a", 1, None)
    assert re.search(rf"^tubule +{np.count_nonzero(paint() == 2)} +0$", text, re.MULTILINE)
    before = snapshot(studies)
    with pytest.raises(InputError, match=r"version_1/a\.nii\.gz: has voxels of the class 'inside'.*nucleus"):
        restore_version(studies, "a", 1)
    assert snapshot(studies) == before


def test_impossible_requests_are_refused_with_the_reason(studies: Path) -> None:
    before = snapshot(studies)
    with pytest.raises(InputError, match=r"image 'x'.*no image of this name; it has a, b"):
        restore_version(studies, "x", 1)
    with pytest.raises(InputError, match=r"image 'a' has no version 7; its versions: 1, 2"):
        show_version(studies, "a", 1, 7)
    with pytest.raises(InputError, match=r"image 'b' has no version 1; its versions: none"):
        show_version(studies, "b", 1, None)
    with pytest.raises(InputError, match=r"version 2 is the current one already"):
        restore_version(studies, "a", 2)
    assert snapshot(studies) == before


def test_files_being_written_and_files_of_macos_are_not_read(studies: Path, caplog: pytest.LogCaptureFixture) -> None:
    (studies / "labels/final/.writing-x.json").write_text('{"label_names"')
    (studies / "labels/final/._a.json").write_bytes(b"\xff\xfe")
    assert "version 2" in list_versions(studies)
    assert not caplog.records


def test_lost_or_damaged_files_are_reported(studies: Path) -> None:
    lose_index(studies)
    known = (studies / "labels/version_1/a.json").rename(studies.parent / "a.json")
    assert "version 1   unknown time" in list_versions(studies)
    with pytest.raises(InputError, match=r"version_1/a\.json: missing or without label_names"):
        restore_version(studies, "a", 1)
    known.rename(studies / "labels/version_1/a.json")
    (studies / "labels/version_2/a.nii.gz").write_bytes(b"x")
    with pytest.raises(InputError, match=r"version_2/a\.nii\.gz: cannot be read"):
        show_version(studies, "a", 2, 1)


def test_a_damaged_current_annotation_does_not_prevent_restoring(studies: Path) -> None:
    for tag in ("final", "original"):
        (studies / f"labels/{tag}/a.nii.gz").write_bytes(b"x")
        (studies / f"labels/{tag}/a.json").write_text("{")
    restore_version(studies, "a", 1)
    assert (stored(studies, "final") == paint()).all()
    assert info(studies, "original")["version"] == 3


def test_restoring_while_others_submit_loses_nothing(studies: Path) -> None:
    errors: list[Exception] = []

    def work(worker: int) -> None:
        try:
            for number in range(4):
                if worker == 0:
                    restore_version(studies, "a", 1)
                    submit(studies, second())
                else:
                    annotation = paint()
                    annotation[0, number, worker] = 1
                    submit(studies, annotation)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    infos = [info(studies, f"version_{number}") for number in range(1, 19)]
    assert [entry["version"] for entry in infos] == list(range(1, 19))
    for number, entry in enumerate(infos, start=1):
        if entry["restored_version"]:
            assert (stored(studies, f"version_{number}") == paint()).all()
    assert sum(entry["restored_version"] == 1 for entry in infos) == 4
    assert len({stored(studies, f"version_{number}").tobytes() for number in range(1, 19)}) == 2 + 8
    assert info(studies, "final")["version"] == 18
    assert (stored(studies, "final") == stored(studies, "version_18")).all()
    labels = index_of(studies)["a"]["labels"]
    assert len(labels) == 18 + 2


@pytest.mark.slow
def test_a_command_that_cannot_run_exits_with_2(tmp_path: Path) -> None:
    command = [sys.executable, APP, "annotations", "list", "--studies"]
    write_image(tmp_path / "a.nii.gz")
    for folder in (tmp_path, tmp_path / "missing"):
        done = subprocess.run([*command, folder], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{folder}: has no annotation" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]
