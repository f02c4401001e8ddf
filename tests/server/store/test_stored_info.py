"""What the server reads that earlier versions, other software or people wrote: values that can't be meant."""

import copy
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from lib.commands.annotations import list_versions, show_version
from lib.core.errors import InputError
from lib.server.records import AnnotationInfo
from lib.server.slicer.replies import submission_reply
from lib.server.store.datastore import AnnotationStore
from lib.server.store.stored_info import image_info, label_info, parse_json
from lib.server.tasks.strategies import Sparse
from serving import SHAPE, SPACING, paint, scaled, stored
from stores import SCHEME, index_of, open_store, submit

SEVERAL = ({}, [], "x", "", None, True, -1, 1.5, 10**30, {"x": "y"}, [[]], [1], [[], []], {"ts": None}, "\ud800")
"""Values that some key doesn't expect."""


def poison(studies: Path, at: tuple[str, ...], value: object) -> None:
    """Change a value in the index and, if it is about a label, beside the label too."""
    objects = index_of(studies)
    _set(objects, ("a", *at), value)
    content = {"name": "x", "description": "y", "images_dir": ".", "labels_dir": "labels", "objects": objects}
    (studies / "datastore_v2.json").write_text(json.dumps(content))
    (studies / "datastore_v2.journal").unlink(missing_ok=True)
    if "info" in at and at[0] == "labels":
        beside = studies / "labels" / at[1] / "a.json"
        info = json.loads(beside.read_text())
        beside.write_text(json.dumps(_set(info, at[3:], value)))


def _set(content: dict[str, Any], at: tuple[str, ...], value: object) -> object:
    if not at:
        return value
    for key in at[:-1]:
        content = content[key]
    content[at[-1]] = value
    return content


def places(content: dict[str, Any], at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield where a value is, for each value in it, but for file endings, which the folder tells."""
    for key, value in content.items():
        yield (*at, key)
        if isinstance(value, dict):
            yield from places(value, (*at, key))


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with versions, a prediction and an offer."""
    folder = tmp_path_factory.mktemp("used")
    studies = folder / "studies"
    studies.mkdir()
    nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).random(SHAPE), scaled(*SPACING)), studies / "a.nii.gz")
    store = open_store(studies)
    submit(store, folder, paint())
    submit(store, folder, paint()[::-1])
    store.save_prediction("a", np.ones(SHAPE, np.uint8), np.ones(SHAPE, np.uint8), scaled(*SPACING), {"seconds": 3.0})
    store.note_offer("a", "sparse", "someone")
    return studies


def check_all_works(studies: Path, folder: Path) -> None:
    """Do what clients and people do; nothing fails, and no version is lost."""
    store = open_store(studies)
    assert [tag for tag in store.get_labels_by_image_id("a") if tag.startswith("version_")] == [
        "version_1",
        "version_2",
    ]
    assert (stored(studies, "final") == paint()[::-1]).all()
    json.dumps(store.json(), allow_nan=False, ensure_ascii=False).encode()
    Sparse()({}, store)
    store.annotated_volume("a", SCHEME)
    info: AnnotationInfo = submit(store, folder, paint()).info
    assert info["version"] == 3
    submission_reply("a", info, SCHEME, "unlabelled", {"inside"}, None)
    assert store.restore("a", 3 - 1)["version"] == 4
    list_versions(studies)
    show_version(studies, "a", 4, 2)
    assert (stored(studies, "version_3") == paint()).all()
    json.dumps(AnnotationStore(str(studies), SCHEME).json(), allow_nan=False, ensure_ascii=False).encode()


def cases(used: Path) -> list[tuple[tuple[str, ...], object]]:
    every = [at for at in places(index_of(used)["a"]) if at[-1] != "ext"]
    return [(at, value) for at in every for value in SEVERAL]


def test_any_value_may_be_wrong(used: Path, tmp_path: Path) -> None:
    """Some values are tried at each place; over all places, each value is."""
    chosen = [case for number, case in enumerate(cases(used)) if number % 16 == 0]
    for number, (at, value) in enumerate(chosen):
        studies = tmp_path / f"{number}"
        shutil.copytree(used, studies)
        poison(studies, at, value)
        try:
            check_all_works(studies, tmp_path)
        except Exception as error:
            # Nobody else knows which value is which class in version 2.
            if not (isinstance(error, InputError) and "so the meaning of the values in version 2" in str(error)):
                raise AssertionError(f"{value!r} at {at}") from error
        shutil.rmtree(studies)


def test_what_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        known = image_info({"versions": 1.5, "strategy": "x", "ts": 3, "of others": {"x": 1.5}}, "image a")
    assert known == {"ts": 3, "of others": {"x": 1.5}}
    assert caplog.messages == [
        "image a: versions is 1.5, which can't be meant; it is left out",
        'image a: strategy is "x", which can\'t be meant; it is left out',
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", True),
        ("version", 10**9),
        ("time", "yesterday"),
        ("label_names", {"inside": 256}),
        ("uncertainty", 2),
        ("slice_names", {"axes": ["x"], "reversed_length": None}),
        ("statistics", {"labelled_voxels": 1, "labelled_percent": 1, "voxels": {}, "annotated_slices": [[], []]}),
    ],
)
def test_values_outside_their_range(key: str, value: object) -> None:
    assert label_info({key: value}, "a") == {}


@given(known=some.dictionaries(some.text(), some.integers() | some.floats() | some.text() | some.none()))
def test_json_that_can_be_sent_again(known: dict[str, Any]) -> None:
    """``json.dumps`` writes numbers and halves of surrogate pairs that no reply can hold."""
    read = parse_json(json.dumps(copy.copy(known)).encode())
    json.dumps(read, allow_nan=False, ensure_ascii=False).encode()
    sendable = {key: value for key, value in known.items() if value == value and value not in (np.inf, -np.inf)}
    assert {key: read[key] for key in sendable} == sendable


@pytest.mark.parametrize("text", ['{"a": "\\ud800"}', '{"a": "\\uDFFF x", "\\ud83d\\ude00": 1}'])
def test_halves_of_surrogate_pairs(text: str) -> None:
    read = parse_json(text.encode())
    assert read["a"].startswith("?")
    assert "\ud83d\ude00" not in read
    assert list(read)[1:] in ([], ["\U0001f600"])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_unicode(studies: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    submit(open_store(studies), tmp_path, paint())
    shutil.copy(studies / "a.nii.gz", studies / os.fsdecode(b"caf\xe9.nii.gz"))
    shutil.copytree(studies / "labels/final", studies / "labels" / os.fsdecode(b"\xe9"))
    shutil.copy(studies / "labels/final/a.nii.gz", studies / "labels/final" / os.fsdecode(b"caf\xe9.nii.gz"))
    with caplog.at_level(logging.WARNING):
        store = open_store(studies)
    json.dumps(store.json(), ensure_ascii=False).encode()
    assert store.list_images() == ["a", "b"]
    assert "1 misnamed file (caf\ufffd.nii.gz): their names aren't UTF-8; rename them" in caplog.text


def test_folders_that_look_like_versions(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    submit(store, tmp_path, paint())
    for name in ("version_007", "version_\u0663", "version_99999999999", "version_0"):
        shutil.copytree(studies / "labels/version_1", studies / "labels" / name)
    assert list(open_store(studies).versions("a")) == [1]
    assert submit(open_store(studies), tmp_path, paint()[::-1]).info["version"] == 2
