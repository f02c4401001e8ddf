"""Submissions while the disk fails or the server is killed, at every step: all or nothing."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from faults import Fault, with_fault
from lib.server.store import decoding
from lib.server.store.datastore import AnnotationStore
from lib.server.store.decoding_worker import DECODERS
from serving import SHAPE, SPACING, paint, scaled, snapshot, stored, write_image
from stores import SCHEME, corrected, index_of, open_store, submit

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

INDEX = ("datastore_v2.json", "datastore_v2.journal")


@pytest.fixture(autouse=True)
def decoding_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode in this process. Each of some hundred forked ones would start another process, which takes minutes."""

    def decode(what: str, path: str, limit: int, memory: int = 0, **options: object) -> object:
        return DECODERS[what]({"path": path, "limit": limit, **options})

    monkeypatch.setattr(decoding, "_decode", decode)


def files_of(studies: Path) -> dict[str, bytes]:
    return {name: content for name, content in snapshot(studies).items() if name not in INDEX}


@pytest.fixture
def annotated(studies: Path, tmp_path: Path) -> Path:
    """The folder with an annotation and a prediction of image a."""
    store = open_store(studies)
    submit(store, tmp_path, paint())
    predict(store)
    open_store(studies)
    return studies


def predict(store: AnnotationStore, value: int = 1) -> None:
    one = np.full(SHAPE, value, np.uint8)
    store.save_prediction("a", one, one, scaled(*SPACING), {"seconds": 3.0})


def submitted(studies: Path) -> None:
    submit(AnnotationStore(str(studies), SCHEME), studies.parent, corrected())


def predicted(studies: Path) -> None:
    predict(AnnotationStore(str(studies), SCHEME), 2)


def uploaded(studies: Path) -> None:
    AnnotationStore(str(studies), SCHEME).add_image("new", str(studies.parent / "new.nii.gz"), {})


def restored(studies: Path) -> None:
    AnnotationStore(str(studies), SCHEME).restore("a", 1)


def check_submitted(studies: Path) -> None:
    store = open_store(studies)
    assert sorted(store.versions("a")) == [1, 2]
    assert (stored(studies, "version_1") == paint()).all()
    for tag in ("version_2", "final"):
        assert (stored(studies, tag) == corrected()).all()
        assert store.get_label_info("a", tag)["version"] == 2
    assert store.get_label_info("a", "original")["version"] == 2


def check_predicted(studies: Path) -> None:
    assert (stored(studies, "prediction") == 2).all()
    assert (stored(studies, "uncertainty") == 2).all()


def check_uploaded(studies: Path) -> None:
    assert (studies / "new.nii.gz").read_bytes() == (studies.parent / "new.nii.gz").read_bytes()
    assert "new" in open_store(studies).list_images()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["once", "from then on", "killed"])
@pytest.mark.parametrize(
    ("work", "check"), [(submitted, check_submitted), (predicted, check_predicted), (uploaded, check_uploaded)]
)
def test_a_change_happens_as_a_whole_or_not_at_all(
    annotated: Path, tmp_path: Path, fault: Fault, work: Callable[[Path], None], check: Callable[[Path], None]
) -> None:
    write_image(tmp_path / "new.nii.gz", seed=9)
    before, known = files_of(annotated), index_of(annotated)

    def done() -> str:
        work(copy)
        return "done"

    at, reached, outcomes = 0, True, list[str]()
    while reached:
        at += 1
        copy = Path(shutil.copytree(annotated, tmp_path / f"{at}"))
        said, reached = with_fault(copy, fault, at, done)
        # The image can't be read, or something can't be written.
        assert said in ("", "InputError", "OSError", "done"), (at, said)
        store = open_store(copy)
        assert not list(copy.rglob(".writing-*")), at
        if said == "done" or (not said and files_of(copy) != before):
            check(copy)
        else:
            assert files_of(copy) == before, at
            assert index_of(copy) == known, at
            assert store.json()["objects"] == known, at
        outcomes.append("OSError" if said == "InputError" else said)
    assert outcomes[-1] == "done"
    assert len(outcomes) > 15
    if fault == "from then on":
        # From the step that makes the change count, nothing is needed any more.
        assert outcomes == ["OSError"] * outcomes.index("done") + ["done"] * outcomes.count("done")
