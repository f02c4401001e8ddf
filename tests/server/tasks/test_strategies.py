"""Which image is offered next."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.server.conf import Conf
from lib.server.store.datastore import AnnotationStore
from lib.server.store.predictions import facts
from lib.server.tasks.infer import Segmentation
from lib.server.tasks.strategies import PASSED_OVER, NextSlice, Sparse
from lib.server.tasks.suggestions import Suggestions
from serving import NAMED, SHAPE, SPACING, paint, publish, scaled, write_image, write_label


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of day in seconds, which passes only when a test adds to it."""
    now = [time.time()]
    monkeypatch.setattr("time.time", lambda: now[0])
    return now


class Annotator:
    """Presses Next Sample every second, and records the offer as the server's endpoint does."""

    def __init__(self, store: AnnotationStore, client: str, clock: list[float]) -> None:
        self.store, self.client, self.clock = store, client, clock

    def next(self) -> str:
        sample = Sparse()({"strategy": "sparse", "client_id": self.client}, self.store)
        assert sample is not None
        self.store.note_offer(sample["id"], "sparse", self.client)
        self.clock[0] += 1
        return str(sample["id"])


def test_fewest_annotated_slices_first_also_of_annotated_images(
    studies: Path, tmp_path: Path, clock: list[float]
) -> None:
    write_image(studies / "c.nii.gz")
    store = AnnotationStore(str(studies), LabelScheme(("inside", "tubule"), "outside"))
    annotator = Annotator(store, "me", clock)
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


def test_an_annotator_who_submits_nothing_is_offered_other_images(
    studies: Path, tmp_path: Path, clock: list[float]
) -> None:
    write_image(studies / "c.nii.gz")
    store = AnnotationStore(str(studies), LabelScheme(("inside", "tubule"), "outside"))
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    annotator = Annotator(store, "me", clock)
    assert [annotator.next() for _ in range(5)] == ["b", "c", "a", "b", "c"]
    # Later, unannotated images come first again.
    clock[0] += PASSED_OVER + 60
    assert annotator.next() == "b"


def test_two_annotators_are_offered_different_images(studies: Path, clock: list[float]) -> None:
    write_image(studies / "c.nii.gz")
    store = AnnotationStore(str(studies), LabelScheme(("inside", "tubule"), "outside"))
    one, other = Annotator(store, "one", clock), Annotator(store, "other", clock)
    assert [annotator.next() for annotator in (one, other, one)] == ["a", "b", "c"]
    # Also of those who choose by another strategy.
    store.note_offer("a", "next_slice", "third")
    assert other.next() == "b"


def test_unreadable_images_come_last_until_they_are_repaired(studies: Path, clock: list[float]) -> None:
    store = AnnotationStore(str(studies), LabelScheme(("inside", "tubule"), "outside"))
    annotator = Annotator(store, "me", clock)
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
    conf = Conf.parse({"labels": "inside,tubule"}, str(studies))
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
def test_an_unusable_prediction_is_made_again(
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
        path.unlink()
        store.refresh()
    again = strategy(REQUEST, store)
    assert first is not None
    assert again is not None
    assert (again["id"], again["slice"]) == ("a", first["slice"])
    assert "segmented again" in again["note"]
    third = strategy(REQUEST, store)
    assert third is not None
    assert third["note"] == ""


def test_a_failure_on_one_image_does_not_stop_next_slice(
    next_slice: tuple[NextSlice, AnnotationStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy, store = next_slice

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(store, "save_prediction", full)
    sample = strategy(REQUEST, store)
    assert sample == {"id": "a", "note": "no slice could be suggested; the server's log says why"}


def test_an_image_that_is_removed_meanwhile_is_passed_over(
    studies: Path, next_slice: tuple[NextSlice, AnnotationStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy, store = next_slice
    save = store.save_prediction

    def remove_and_save(image_id: str, *prediction: Any) -> None:
        (studies / "a.nii.gz").unlink(missing_ok=True)
        store.refresh()
        save(image_id, *prediction)

    monkeypatch.setattr(store, "save_prediction", remove_and_save)
    sample = strategy(REQUEST, store)
    assert sample is not None
    assert sample["id"] == "b"


def test_a_prediction_of_an_earlier_image_of_the_same_name_is_made_again(
    studies: Path, next_slice: tuple[NextSlice, AnnotationStore]
) -> None:
    strategy, store = next_slice
    strategy(REQUEST, store)
    again = strategy(REQUEST, store)
    assert again is not None
    assert (again["id"], again["note"]) == ("a", "")
    write_image(studies / "a.nii.gz", seed=9)
    # The reply to a submission doesn't use it either.
    assert "spread evenly" in str(strategy.suggestions.paint_next("a"))
    third = strategy(REQUEST, store)
    assert third is not None
    assert (third["id"], "segmented again" in third["note"]) == ("a", True)


def test_predictions_that_earlier_versions_stored_with_fewer_keys_are_used(
    next_slice: tuple[NextSlice, AnnotationStore],
) -> None:
    strategy, store = next_slice
    strategy(REQUEST, store)
    known = store.get_label_info("a", "prediction")["model"]
    known.pop("statistics")
    store.update_label_info("a", "prediction", {"model": known, "image": None})
    sample = strategy(REQUEST, store)
    assert sample is not None
    assert (sample["id"], sample["note"]) == ("a", "")
    store.update_label_info("a", "prediction", {"model": {**known, "statistics": "tile"}})
    sample = strategy(REQUEST, store)
    assert sample is not None
    assert "segmented again" in sample["note"]


def test_the_reason_for_not_using_a_model_is_given(studies: Path) -> None:
    conf = Conf.parse({"labels": "lumen"}, str(studies))
    store = AnnotationStore(str(studies), conf.scheme)
    publish(conf.models, LabelScheme(("inside", "tubule"), "outside"))
    sample = NextSlice(Suggestions(conf, store, Segmentation(conf, store)))(REQUEST, store)
    assert sample is not None
    assert sample["note"].startswith("the slices are spread evenly: ")
    assert "lumen" in sample["note"]


@pytest.mark.slow
@pytest.mark.parametrize("written", [float("nan"), float("inf"), 10**400, -1, "much", None])
def test_any_uncertainty_that_earlier_versions_let_clients_write_is_tolerated(
    written: object, studies: Path, next_slice: tuple[NextSlice, AnnotationStore]
) -> None:
    strategy, store = next_slice
    for image_id in ("a", "b"):
        strategy.suggestions.of(image_id, 1)
    store.update_label_info("b", "prediction", {"uncertainty": 0.5})
    path = studies / "labels/prediction/a.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "uncertainty": written}))
    store.serve(watch=False)
    assert "NaN" not in (studies / "datastore_v2.json").read_text()
    sample = strategy(REQUEST, store)
    assert sample is not None
    # The image counts with the other one's uncertainty; equals are ordered by name.
    assert (sample["id"], sample["uncertainty"]) == ("a", None)


def test_nothing_is_left_if_every_voxel_is_labelled(studies: Path, tmp_path: Path) -> None:
    """This holds even if most planes don't count as annotated slices."""
    conf = Conf.parse({"labels": "inside,tubule", "unpainted": "background"}, str(studies))
    store = AnnotationStore(str(studies), conf.scheme)
    dabs = np.zeros(SHAPE, np.uint8)
    for z in range(SHAPE[2]):
        dabs[(z % 2) * 8 : (z % 2) * 8 + 9, 4:14, z] = 1 + z % 2
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", dabs)), "final", NAMED)
    known = store.get_label_info("a", "final")["statistics"]["annotated_slices"]
    assert [len(indices) for indices in known] == [0, 0, SHAPE[2]]
    suggestions = Suggestions(conf, store, Segmentation(conf, store))
    assert suggestions.of("a", 3)[1] == []


def test_stored_predictions_are_not_made_again(studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Next Sample then takes only as long as reading the files."""
    conf = Conf.parse({"labels": "inside,tubule"}, str(studies))
    store = AnnotationStore(str(studies), conf.scheme)
    publish(conf.models, conf.scheme)
    segmentation = Segmentation(conf, store)
    generator = np.random.default_rng(0)
    labels, entropy = (generator.integers(0, most, SHAPE).astype(np.uint8) for most in (3, 256))
    store.save_prediction("a", labels, entropy, scaled(*SPACING), {"model": facts(segmentation.model())})
    predicted: list[str] = []
    predict = segmentation.predict

    def counted(uri: str, image_id: str) -> object:
        predicted.append(image_id)
        return predict(uri, image_id)

    monkeypatch.setattr(segmentation, "predict", counted)
    suggestions = Suggestions(conf, store, segmentation)
    _, found, note = suggestions.of("a", 3)
    assert (sorted(one.place.axis for one in found), note) == ([0, 1, 2], "")
    assert predicted == []
    suggestions.of("b", 3)
    assert predicted == ["b"]
