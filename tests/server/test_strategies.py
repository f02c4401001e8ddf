"""Which image is offered next."""

import time
from pathlib import Path

import numpy as np
import pytest

from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.server.conf import Conf
from lib.server.datastore import AnnotationStore
from lib.server.infer import Segmentation
from lib.server.strategies import PASSED_OVER, NextSlice, Sparse
from lib.server.suggestions import Suggestions
from serving import NAMED, SHAPE, paint, publish, write_image, write_label


class Annotator:
    """Presses Next Sample every second; the server's endpoint notes what was offered to whom."""

    def __init__(self, store: AnnotationStore, client: str) -> None:
        self.store, self.client = store, client

    def next(self) -> str:
        sample = Sparse()({"strategy": "sparse", "client_id": self.client}, self.store)
        assert sample is not None
        noted = {"sparse": {"ts": int(time.time()), "client_id": self.client}}
        self.store.update_image_info(sample["id"], {"strategy": noted})
        time.sleep(1)
        return str(sample["id"])


def test_fewest_annotated_slices_first_also_of_annotated_images(studies: Path, tmp_path: Path) -> None:
    write_image(studies / "c.nii.gz")
    store = AnnotationStore(str(studies), LabelScheme(("inside", "tubule"), "outside"))
    annotator = Annotator(store, "me")
    assert [annotator.next() for _ in range(4)] == ["a", "b", "c", "a"]

    def annotate(image: str, slices: int) -> None:
        label = np.zeros_like(paint())
        label[[2, 5, 8, 11][:slices]] = 1
        label[3, 3, 3] = 1
        store.save_label(image, str(write_label(tmp_path / "label.nii.gz", label)), "final", NAMED)

    annotate("a", 3)
    annotate("b", 1)
    annotate("c", 0)
    assert annotator.next() == "c"
    annotate("c", 2)
    assert annotator.next() == "b"
    annotate("b", 4)
    assert annotator.next() == "c"
    annotate("c", 3)
    # a and c have three each, and c was offered before.
    assert annotator.next() == "a"


def test_who_submits_nothing_is_offered_other_images(
    studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(studies / "c.nii.gz")
    store = AnnotationStore(str(studies), LabelScheme(("inside", "tubule"), "outside"))
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    annotator = Annotator(store, "me")
    assert [annotator.next() for _ in range(5)] == ["b", "c", "a", "b", "c"]
    assert Annotator(store, "you").next() == "b"
    # The next day all starts again with those that nobody annotated.
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + PASSED_OVER + 60)
    assert annotator.next() == "b"


def test_unreadable_images_come_last_until_they_are_repaired(studies: Path) -> None:
    store = AnnotationStore(str(studies), LabelScheme(("inside", "tubule"), "outside"))
    annotator = Annotator(store, "me")
    whole = (studies / "a.nii.gz").read_bytes()
    (studies / "a.nii.gz").write_bytes(whole[:500])
    assert annotator.next() == "a"
    with pytest.raises(InputError, match=r"a\.nii\.gz: cannot be read.* press Next Sample again"):
        store.check_image("a")
    assert [annotator.next() for _ in range(2)] == ["b", "b"]
    (studies / "a.nii.gz").write_bytes(whole)
    assert annotator.next() == "a"
    store.check_image("a")


def test_an_empty_datastore_offers_nothing(tmp_path: Path) -> None:
    store = AnnotationStore(str(tmp_path), LabelScheme(("inside",), "outside"))
    assert Sparse()({"strategy": "sparse"}, store) is None


@pytest.fixture
def next_slice(studies: Path) -> tuple[NextSlice, AnnotationStore]:
    """The strategy for a model of images with one channel."""
    conf = Conf.parse({"labels": "inside,tubule"}, "", str(studies))
    store = AnnotationStore(str(studies), conf.scheme)
    publish(conf.models, conf.scheme)
    return NextSlice(Suggestions(conf, store, Segmentation(conf, store))), store


REQUEST = {"strategy": "next_slice", "client_id": "me"}


def test_a_broken_image_does_not_stop_next_slice(studies: Path, next_slice: tuple[NextSlice, AnnotationStore]) -> None:
    strategy, store = next_slice
    (studies / "a.nii.gz").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"a\.nii\.gz.*press Next Sample again"):
        strategy(REQUEST, store)
    sample = strategy(REQUEST, store)
    assert sample is not None
    assert sample["id"] == "b"
    assert sample["slice"]["score"] > 0


def test_an_image_of_other_channels_is_offered_without_a_slice(
    studies: Path, next_slice: tuple[NextSlice, AnnotationStore]
) -> None:
    strategy, store = next_slice
    write_image(studies / "a.nii.gz", (*SHAPE, 3))
    sample = strategy(REQUEST, store)
    assert sample is not None
    assert (sample["id"], "slice" in sample) == ("a", False)
    assert "this one has 3" in sample["note"]


@pytest.mark.parametrize("damage", ["cut off", "of another image", "removed"])
def test_a_prediction_that_cannot_be_used_is_made_anew(
    damage: str, studies: Path, next_slice: tuple[NextSlice, AnnotationStore]
) -> None:
    strategy, store = next_slice
    first = strategy(REQUEST, store)
    path = studies / "labels/uncertainty/a.nii.gz"
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "of another image":
        write_label(path, np.zeros((5, 4, 3), np.uint8))
    else:
        store.remove_label("a", "uncertainty")
    again = strategy(REQUEST, store)
    assert first is not None
    assert again is not None
    assert (again["id"], again["slice"]) == ("a", first["slice"])
    assert "segmented anew" in again["note"]
    third = strategy(REQUEST, store)
    assert third is not None
    assert third["note"] == ""
