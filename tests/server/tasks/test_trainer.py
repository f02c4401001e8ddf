"""The trainer around the method's training: options, data and reports of progress."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lib.core.errors import InputError
from lib.server.conf import Conf
from lib.server.store.datastore import AnnotationStore
from lib.server.tasks.trainer import Trainer, _Progress, read_cases, read_options
from serving import NAMED, SHAPE, paint, scaled, write_image, write_label


def set_up(studies: Path, **conf_: str) -> tuple[Trainer, AnnotationStore]:
    conf = Conf.parse({"width": "2", **conf_}, str(studies))
    store = AnnotationStore(str(studies), conf.scheme)
    store.serve(watch=False)
    return Trainer(conf), store


@pytest.mark.parametrize(
    "request_",
    [
        {"max_epochs": 7, "max_minutes": 3, "start": "afresh"},
        {"max_epochs": "7", "max_minutes": "3", "start": "afresh"},
        {"max_epochs": [7], "max_minutes": ["3"], "start": ["afresh", "continue"], "device": ["cpu"], "model": "m"},
    ],
)
def test_options_arrive_as_values_texts_or_lists(request_: dict[str, Any]) -> None:
    options = read_options(request_)
    assert (options.max_epochs, options.max_minutes, options.start) == (7, 3, "afresh")


def test_missing_options_have_the_defaults_that_slicer_shows(studies: Path) -> None:
    shown = set_up(studies)[0].config()
    for request in ({}, {"max_epochs": "", "max_minutes": None, "start": []}, shown):
        options = read_options(request)
        assert options.max_epochs == shown["max_epochs"]
        assert options.max_minutes == shown["max_minutes"]
        assert options.start == shown["start"][0] == "continue"


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"max_epochs": "many"}, "max_epochs: 'many'"),
        ({"max_epochs": 0}, "max_epochs: 0"),
        ({"max_epochs": "nan"}, "max_epochs: 'nan'"),
        ({"max_minutes": -1}, "max_minutes: -1"),
        ({"max_minutes": {}}, "max_minutes: {}"),
        ({"start": "again"}, "'again'.*continue, afresh"),
        ({"start": 3}, "start: 3"),
    ],
)
def test_impossible_options_are_refused(request_: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_options(request_)


def test_slicer_shows_numbers_before_the_first_training_and_of_a_damaged_file(studies: Path) -> None:
    trainer, _ = set_up(studies)
    expected = {"epoch": 0, "total_epochs": 1, "total_time": "", "best_metric": 0.0, "message": "not trained yet"}
    assert trainer.stats() == expected
    trainer.folder.path.mkdir()
    trainer.folder.stats_path.write_text('{"epo')
    assert trainer.stats() == expected


def test_nothing_annotated_is_refused(studies: Path) -> None:
    trainer, store = set_up(studies)
    with pytest.raises(InputError, match="nothing is annotated"):
        trainer.check({}, store)
    with pytest.raises(InputError, match="nothing is annotated"):
        trainer({}, store)


def test_a_single_class_is_refused_until_another_image_has_a_second(studies: Path, tmp_path: Path) -> None:
    trainer, store = set_up(studies)
    for image, value in (("a", 2), ("b", 3)):
        label = np.where(paint() > 0, value, 0).astype(np.uint8)
        store.save_label(image, str(write_label(tmp_path / "label.nii.gz", label)), "final", NAMED)
        if image == "a":
            with pytest.raises(InputError, match=r"only the class 'tubule'.*inside, outside"):
                trainer.check({}, store)
            with pytest.raises(InputError, match="only the class 'tubule'"):
                trainer({}, store)
    trainer.check({}, store)


def test_a_single_class_is_enough_if_the_rest_of_its_slices_is_background(studies: Path, tmp_path: Path) -> None:
    trainer, store = set_up(studies, unpainted="background")

    def submit(label: np.ndarray) -> None:
        store.save_label("a", str(write_label(tmp_path / "label.nii.gz", label)), "final", NAMED)

    stroke = np.zeros(SHAPE, np.uint8)
    stroke[3:9, 5, 5] = 1
    submit(stroke)
    with pytest.raises(InputError, match="only the class 'inside'"):
        trainer.check({}, store)
    submit(np.where(paint() > 0, 1, 0).astype(np.uint8))
    with pytest.raises(InputError, match="only the class 'inside'"):
        trainer({}, store)
    submit(np.where(paint() == 2, 1, 0).astype(np.uint8))
    trainer.check({}, store)


def test_structures_without_any_background_are_refused(studies: Path, tmp_path: Path) -> None:
    trainer, store = set_up(studies)
    structures = np.where(paint() < 3, paint(), 0).astype(np.uint8)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", structures)), "final", NAMED)
    words = (
        "no voxel of outside is annotated in any image.*paint outside in some slices too.*--conf unpainted background"
    )
    with pytest.raises(InputError, match=words):
        trainer.check({}, store)
    with pytest.raises(InputError, match=words):
        trainer({}, store)
    store.save_label("b", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    trainer.check({}, store)


def test_cases_are_the_annotated_images(studies: Path, tmp_path: Path) -> None:
    trainer, store = set_up(studies)
    for image in ("a", "c.v2"):
        write_image(studies / f"{image}.nii.gz", (*SHAPE, 3))
    store.refresh()
    for image in ("c.v2", "a"):
        label = write_label(tmp_path / "label.nii.gz", paint() if image == "a" else paint()[::-1])
        store.save_label(image, str(label), "final", NAMED)
    read, left_out = read_cases(store, trainer.conf.scheme)
    cases = {case.id: case for case in read}
    assert (set(cases), left_out) == ({"a", "c.v2"}, [])
    assert cases["a"].volume.channels == 3
    assert cases["c.v2"].volume.channels == 3
    assert (cases["a"].annotation == paint()).all()
    assert (cases["c.v2"].annotation == paint()[::-1]).all()


CORRECTED = scaled(0.5, 0.5, 1.3)
"""The affine of an image whose voxel size somebody corrected."""


def spoil(what: str, studies: Path) -> None:
    """Make the image b or its annotation unusable."""
    image = studies / "b.nii.gz"
    if what == "voxel size":
        write_image(image, affine=CORRECTED, seed=2)
    elif what == "shape":
        write_image(image, (20, 18, 13))
    elif what == "damaged":
        image.write_bytes(image.read_bytes()[:800])
    elif what == "removed":
        image.rename(studies / "gone")
    elif what == "infinite":
        array = np.ones(SHAPE, np.float32)
        array[1, 2, 3] = np.inf
        write_label(image, array)
    elif what == "channels":
        write_image(image, (*SHAPE, 2))
    else:
        write_label(studies / "labels/final/b.nii.gz", paint() + 1)


SPOILT = {
    "voxel size": r"voxel size 0\.5 × 0\.5 × 1\.3 mm instead of 0\.5 × 0\.5 × 1\.25 mm.* restore b 1 --by-voxel",
    "shape": r"b\.nii\.gz has the shape \(20, 18, 13\), but version 1 of its annotation has \(20, 18, 12\)",
    "damaged": r"b\.nii\.gz: cannot be read",
    "removed": r"b\.nii\.gz: no such file",
    "infinite": r"b\.nii\.gz: the value of voxel .* is infinite",
    "channels": r"'b' has 2 channel\(s\), most annotated images have 1",
    "values": r"final/b\.nii\.gz: somebody put this file there",
}
TOLD_BY_HEADERS = ("voxel size", "shape", "removed", "channels")


@pytest.mark.parametrize("what", SPOILT)
def test_an_unusable_image_is_left_out_and_reported(what: str, studies: Path, tmp_path: Path) -> None:
    trainer, store = set_up(studies)
    for image in "abc":
        write_image(studies / f"{image}.nii.gz", seed=ord(image))
        store.refresh()
        store.save_label(image, str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    spoil(what, studies)
    if what in TOLD_BY_HEADERS:
        (reason,) = trainer.check({}, store)["left_out"]
        assert re.search(SPOILT[what], reason)
    cases, (reason,) = read_cases(store, trainer.conf.scheme)
    assert [case.id for case in cases] == ["a", "c"]
    assert re.search(SPOILT[what], reason)
    with _Progress(trainer.folder, [reason], trainer.on_report) as progress:
        progress.report(report(1))
    assert re.search(f"going; left out: .*{SPOILT[what]}", trainer.stats()["message"])


@pytest.mark.parametrize("what", [what for what in SPOILT if what != "channels"])
def test_if_nothing_is_left_training_is_refused(what: str, studies: Path, tmp_path: Path) -> None:
    trainer, store = set_up(studies)
    store.save_label("b", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    spoil(what, studies)
    if what in TOLD_BY_HEADERS:
        with pytest.raises(InputError, match=SPOILT[what]):
            trainer.check({}, store)
    with pytest.raises(InputError, match=f"none of the annotated images can be used.*{SPOILT[what]}"):
        trainer({}, store)


def report(epoch: int, **changes: Any) -> dict[str, Any]:
    values = {
        "run": "2030-01-01T10:00:00+00:00",
        "epoch": epoch,
        "total_epochs": 2,
        "seconds": 61.0 * epoch,
        "loss": 1.0 / epoch,
        "waited": 0.01,
        "metric": "validation IoU",
        "score": None,
        "iou": None,
        "best_metric": 0.0,
        "published": False,
        "finished": False,
        "message": "going",
    }
    return {**values, **changes}


def test_progress_is_written_for_slicer_and_tensorboard(studies: Path) -> None:
    trainer, _ = set_up(studies)
    iou = {"inside": 0.25, "tubule": None}
    with _Progress(trainer.folder, [], trainer.on_report) as progress:
        progress.report(report(1, loss=math.nan))
        # /info sends it as JSON, which knows no NaN; Slicer's bar moves only while there is no total time.
        assert json.loads(trainer.folder.stats_path.read_text())["loss"] is None
        assert (trainer.stats()["epoch"], trainer.stats()["total_time"]) == (1, "")
        progress.report(report(2, score=0.25, iou=iou, best_metric=0.25, finished=True))
    stats = trainer.stats()
    assert (stats["epoch"], stats["total_epochs"], stats["total_time"]) == (2, 2, "0:02:02")
    assert stats["best_metric"] == 0.25
    (run,) = trainer.folder.events.iterdir()
    events = EventAccumulator(str(run)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("validation IoU/inside")] == [(2, 0.25)]
    assert [event.step for event in events.Scalars("loss")] == [1, 2]
    assert [event.value for event in events.Scalars("waited")] == pytest.approx([0.01, 0.01])
