"""How a starting server completes or converts labels that a killed server, a person or another scheme left."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from lib.core.labels import LabelScheme
from lib.server.slicer.segments import all_segments
from lib.server.store.submission import SchemeError
from serving import paint, snapshot, stored, write_label
from stores import label_info, open_store, submit


@pytest.mark.parametrize("killed", ["before final", "before the info of final", "before original"])
def test_an_interrupted_submission_is_completed(studies: Path, tmp_path: Path, killed: str) -> None:
    store = open_store(studies)
    submit(store, tmp_path, paint())
    before = snapshot(studies)
    second = paint()
    second[0] = 3
    submit(store, tmp_path, second)
    undone = ["datastore_v2.json", "datastore_v2.journal", "labels/original/a.nii.gz", "labels/original/a.json"]
    if killed != "before original":
        undone.append("labels/final/a.json")
    if killed == "before final":
        undone.append("labels/final/a.nii.gz")
    for name in undone:
        (studies / name).write_bytes(before[name])
    store = open_store(studies)
    assert (stored(studies, "final") == second).all()
    assert (stored(studies, "original") == np.where(second > 0, second + 3, 0)).all()
    assert store.get_label_info("a", "final")["version"] == 2
    assert store.get_label_info("a", "original")["version"] == 2


def test_an_interrupted_first_submission_is_completed(studies: Path, tmp_path: Path) -> None:
    submit(open_store(studies), tmp_path, paint())
    shutil.rmtree(studies / "labels/original")
    for name in ("datastore_v2.json", "datastore_v2.journal", "labels/final/a.json"):
        (studies / name).unlink()
    store = open_store(studies)
    assert set(store.get_labels_by_image_id("a")) == {"version_1", "final", "original"}
    assert store.get_label_info("a", "original")["version"] == 1


def test_final_is_rewritten_from_the_newest_version(studies: Path, tmp_path: Path) -> None:
    submit(open_store(studies), tmp_path, paint())
    (studies / "labels/final/a.nii.gz").unlink()
    assert len(open_store(studies).datalist()) == 1
    assert (stored(studies, "final") == paint()).all()


def test_a_label_put_there_by_hand_becomes_a_version(studies: Path) -> None:
    (studies / "labels/final").mkdir(parents=True)
    write_label(studies / "labels/final/a.nii", paint())
    write_label(studies / "labels/final/b.nii.gz", paint()[:-1])
    store = open_store(studies)
    assert (stored(studies, "version_1") == paint()).all()
    assert (stored(studies, "final") == paint()).all()
    assert not (studies / "labels/final/a.nii").exists()
    # The unusable one stays in place and is left out.
    assert store.get_labeled_images() == ["a"]
    assert (studies / "labels/final/b.nii.gz").exists()


def test_values_are_converted_to_another_scheme_by_name(studies: Path, tmp_path: Path) -> None:
    submit(open_store(studies), tmp_path, paint())
    version = (studies / "labels/version_1/a.nii.gz").read_bytes()
    wider = LabelScheme(("vessel", "tubule", "inside"), "outside")
    open_store(studies, wider)
    final = stored(studies, "final")
    for voxel, value in np.ndenumerate(paint()):
        assert final[voxel] == {0: 0, 1: 3, 2: 2, 3: 4}[int(value)]
    assert list(label_info(studies, "original")["params"]["label_names"]) == list(all_segments(wider))
    assert (studies / "labels/version_1/a.nii.gz").read_bytes() == version
    open_store(studies)
    assert (stored(studies, "final") == paint()).all()
    with pytest.raises(SchemeError, match=r"a\.nii\.gz: has voxels of the class 'tubule'.*inside, vessel"):
        open_store(studies, LabelScheme(("inside", "vessel"), "outside"))
