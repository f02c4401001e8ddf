"""Threads that read while others submit: what they see is consistent, and never half a change."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lib.core.locking import Locked, OwnedLock
from lib.server.store import folder_store
from serving import paint, write_image
from stores import open_store, submit


def test_readers_see_whole_changes_only(studies: Path, tmp_path: Path) -> None:
    for number in range(30):
        write_image(studies / f"more{number}.nii.gz", seed=number)
    store = open_store(studies)
    done, failures, seen = threading.Event(), list[object](), set[str]()

    def whole(objects: dict[str, Any]) -> None:
        for entry in objects.values():
            versions = [info["info"]["version"] for tag, info in entry["labels"].items() if tag.startswith("version_")]
            for tag in ("final", "original"):
                current = entry["labels"][tag]["info"]["version"] if tag in entry["labels"] else 0
                assert current == max(versions, default=0)
            assert entry["image"]["info"].get("versions", 0) == max(versions, default=0)

    def agrees(image: str) -> None:
        if version := store.current(image).get("version"):
            assert version in store.versions(image)

    readers: dict[str, Callable[[], object]] = {
        "json": lambda: whole(json.loads(json.dumps(store.json()))["objects"]),
        "status": store.status,
        "images": lambda: [store.get_image_info(image).get("path") for image in store.list_images()],
        "training": lambda: [Path(case["label"]).stat() for case in store.datalist()],
        "versions": lambda: [agrees(image) for image in store.list_images()],
        "labelled": store.get_labeled_images,
        "unlabelled": store.get_unlabeled_images,
        "left out": store.describe_left_out,
        "tags": lambda: [store.get_labels_by_image_id(image) for image in store.list_images()],
    }

    def read(name: str) -> None:
        while not done.wait(0.002):
            try:
                readers[name]()
                seen.add(name)
            except Exception as error:
                failures.append((name, repr(error)))
                return

    threads = [threading.Thread(target=read, args=(name,)) for name in readers]
    for thread in threads:
        thread.start()
    try:
        for number in range(6):
            for image in ("a", "b", f"more{number}"):
                submit(store, tmp_path, paint(), image)
            write_image(tmp_path / "new.nii.gz", seed=100 + number)
            store.add_image(f"new{number}", str(tmp_path / "new.nii.gz"), {})
            (studies / f"more{29 - number}.nii.gz").unlink()
            store.note_offer("a", "sparse", "somebody")
            store.refresh()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert seen == readers.keys()
    assert store.current("a")["version"] == 6


def test_a_lock_that_is_held_for_long_is_no_end_of_the_request(
    studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(studies)
    hold = OwnedLock.hold
    monkeypatch.setattr(folder_store.OwnedLock, "hold", lambda lock: hold(lock, patience=0.2))
    # Another process has a lock object of its own.
    with hold(OwnedLock(studies / ".lock", "the same folder")):
        with pytest.raises(Locked, match=f"(?s)the datastore {studies}: process.*Try again"):
            submit(store, tmp_path, paint())
        # Reading goes on.
        assert store.status()["total"] == 2
    assert submit(store, tmp_path, paint()).info["version"] == 1
