"""The index: lost, damaged, or changed by several threads and processes at once."""

import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np

from lib.server.store.datastore import AnnotationStore
from serving import SHAPE, SPACING, paint, scaled, stored, wait_until, write_image
from stores import SCHEME, index_of, label_info, lose_index, open_store, submit


def test_nothing_is_lost_with_the_index(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    submit(store, tmp_path, paint())
    submit(store, tmp_path, paint()[::-1])
    store.save_prediction("a", np.ones(SHAPE, np.uint8), np.ones(SHAPE, np.uint8), scaled(*SPACING), {"seconds": 3.0})
    labels = store.json()["objects"]["a"]["labels"]
    lose_index(studies)
    assert open_store(studies).json()["objects"]["a"]["labels"] == labels
    index = studies / "datastore_v2.json"
    index.write_text(index.read_text()[:300])
    damaged = index.read_bytes()
    assert open_store(studies).json()["objects"]["a"]["labels"] == labels
    (aside,) = studies.glob("datastore_v2.damaged-*.json")
    assert aside.read_bytes() == damaged


def test_opening_writes_nothing(studies: Path, tmp_path: Path) -> None:
    submit(open_store(studies), tmp_path, paint())
    write_image(studies / "c.nii.gz")
    for index in ("as it was", "damaged"):
        if index == "damaged":
            (studies / "datastore_v2.json").write_text("{")
        before = {path: path.stat().st_mtime_ns for path in studies.rglob("*")}
        reader = AnnotationStore(str(studies), SCHEME)
        assert len(reader.datalist()) == 1
        assert sorted(reader.list_images()) == ["a", "b", "c"]
        assert {path: path.stat().st_mtime_ns for path in studies.rglob("*")} == before


def test_the_index_is_complete_at_every_moment(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    done = threading.Event()
    failures = []

    def read() -> None:
        while not done.is_set():
            try:
                json.loads((studies / "datastore_v2.json").read_text())
            except (ValueError, OSError) as error:
                failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(100):
        store.note_offer("a", f"strategy {number}", "x" * 20000)
    done.set()
    reader.join()
    assert not failures


def test_files_being_written_and_files_of_macos_are_not_images(studies: Path) -> None:
    for name in (".writing-x.nii.gz", "._a.nii.gz", "models/m.nii.gz", "labels/final/.writing-a.nii.gz", "notes.png"):
        (studies / name).parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(studies / "a.nii.gz", studies / name)
    store = open_store(studies)
    assert sorted(store.list_images()) == ["a", "b"]
    assert store.get_labeled_images() == []


def test_simultaneous_submissions_are_all_kept(studies: Path, tmp_path: Path) -> None:
    # Two stores, as in two processes; two threads in each.
    stores = [open_store(studies), open_store(studies)]
    errors = []
    told = []

    def work(store: AnnotationStore, worker: int) -> None:
        try:
            for number in range(4):
                annotation = paint()
                annotation[0, 0, worker], annotation[0, 1, number] = 1, 2
                told.append(submit(store, tmp_path, annotation).info["version"])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(stores[worker % 2], worker)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    contents = {stored(studies, f"version_{number}").tobytes() for number in range(1, 17)}
    assert len(contents) == 16
    assert sorted(told) == list(range(1, 17))
    assert label_info(studies, "final")["version"] == 16
    assert (stored(studies, "final") == stored(studies, "version_16")).all()
    index = index_of(studies)["a"]["labels"]
    assert len(index) == 16 + 2
    assert all(index[f"version_{number}"]["info"]["version"] == number for number in range(1, 17))


def test_the_reply_to_a_submission_describes_that_submission(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    submit(store, tmp_path, paint())
    submitted = submit(store, tmp_path, paint()[::-1])
    # Another process adds a version before the reply is written.
    AnnotationStore(str(studies), SCHEME).restore("a", 1)
    store.reload()
    assert store.get_label_info("a", "final")["version"] == 3
    assert submitted.info["version"] == 2
    assert submitted == "a"


def test_changed_files_are_noticed_and_disturb_no_submission(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies, watch=True)
    for number in range(6):
        write_image(studies / f"new{number}.nii.gz")
        submit(store, tmp_path, paint())
        assert "a" in store.list_images()
        assert store.get_label_info("a", "final")["version"] == number + 1
    wait_until(lambda: len(store.list_images()) == 8)
    time.sleep(0.5)  # lets earlier events pass, which would find the new name too
    os.rename(studies / "new5.nii.gz", studies / "renamed.nii.gz")
    wait_until(lambda: "renamed" in store.list_images())
    (studies / "new4.nii.gz").unlink()
    expected = ["a", "b", "new0", "new1", "new2", "new3", "renamed"]
    wait_until(lambda: sorted(store.list_images()) == expected)
    assert {f"version_{number}" for number in range(1, 7)} < set(store.get_labels_by_image_id("a"))
    # Annotations that another process stores are noticed too.
    submit(AnnotationStore(str(studies), SCHEME), tmp_path, paint())
    wait_until(lambda: store.get_label_info("a", "final")["version"] == 7)
