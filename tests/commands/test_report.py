"""The page of a project as the command writes it, with its numbers counted again."""

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from lib.commands.report import write_report
from lib.commands.train import train_and_report
from lib.core.errors import InputError
from lib.core.model.folder import ModelFolder
from lib.core.model.model import Model
from lib.core.owner import Owner
from lib.server.conf import Conf
from lib.server.jobs.latest_training import LatestTraining, Training
from lib.server.tasks.infer import Segmentation
from serving import SHAPE, paint, write_image
from stores import SCHEME, open_store, submit

CONF = ["labels=inside,tubule", "background=outside", "width=2"]


class Page(HTMLParser):
    """The words of a page, its pictures' alternatives, what it refers to, and the classes of its shapes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.words, self.alternatives, self.references, self.shapes = "", list[str](), list[str](), list[str]()
        self.strips: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))
        self.words = " ".join(self.words.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.references += [values[key] for key in ("src", "href") if key in values]
        self.ids |= {values["id"]} if "id" in values else set()
        if tag == "img":
            self.alternatives.append(values["alt"])
        if tag == "svg" and "aria-label" in values:
            self.strips.append(values["aria-label"])
        if tag in ("rect", "path"):
            self.shapes.append(values["class"])

    def handle_data(self, data: str) -> None:
        self.words += f" {data}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project of two images: one was painted twice and trained on, both are segmented."""
    folder = tmp_path_factory.mktemp("reports") / "kidneys <1>"
    folder.mkdir()
    for seed, name in enumerate("ab"):
        write_image(folder / f"{name}.nii.gz", seed=seed)
    store = open_store(folder)
    first = paint()
    first[10], first[:, 9] = 0, 0
    for annotation in (first, paint()):
        submit(store, folder.parent, annotation)
    train_and_report(folder, CONF, {"max_epochs": 2, "max_minutes": 0.0, "start": "continue"}, True)
    conf = Conf.parse(dict(option.split("=") for option in CONF), str(folder))
    segmentation = Segmentation(conf, store)
    for name in "ab":
        segmentation.predict(store.get_image_uri(name), name)
    return folder


def page(folder: Path, conf: "list[str] | None" = None) -> Page:
    out = folder.parent / "report.html"
    write_report(folder, out, CONF if conf is None else conf)
    return Page(out)


@pytest.mark.slow
def test_a_trained_project(trained: Path) -> None:
    found = page(trained, [])
    assert "kidneys <1>" in found.words
    model = Model.load(trained / "models/model.pt")
    assert f"The published model is of epoch {model.epoch}, with {model.metric} {model.score:.3f}" in found.words
    assert "2 volumes, 1 of them annotated" in found.words
    # Two views of each axis, and the curves.
    assert len([one for one in found.alternatives if one.startswith("Slice of")]) >= 6
    assert any(one.startswith("Loss and IoU over 2 epochs") for one in found.alternatives)
    assert all(found.alternatives)
    for name in ("inside", "tubule"):
        assert name in found.words
    assert "version submitted by change 2 (current)" in found.words
    known = open_store(trained).versions("a")
    more = known[2]["statistics"]["labelled_voxels"] - known[1]["statistics"]["labelled_voxels"]
    assert f"new slices: axis 0 (L-R, sagittal): 10; axis 1 (P-A, coronal): 9; {more:+,} labelled voxels" in found.words
    annotated = sum(map(len, known[2]["statistics"]["annotated_slices"]))
    held = sum(map(len, model.split.validation.values()))
    assert [found.shapes.count(kind) for kind in ("painted", "held")] == [annotated - held, held]
    assert found.shapes.count("heat") == 2 * sum(SHAPE)
    assert len(found.strips) == 6
    assert "Paint next" in found.words


@pytest.mark.slow
def test_the_page_needs_no_other_file(trained: Path) -> None:
    found = page(trained)
    for reference in found.references:
        assert (
            reference.startswith(("data:image/png;base64,", "data:image/jpeg;base64,"))
            or reference.removeprefix("#") in found.ids
        )
    html = (trained.parent / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert "url(" not in html


@pytest.mark.slow
def test_held_out_slices_are_compared_with_the_prediction(trained: Path) -> None:
    """The prediction is replaced by a known one, and the IoU counted by a plain loop."""
    store = open_store(trained)
    model = Model.load(trained / "models/model.pt")
    places = model.split.validation["a"]
    assert places
    annotation, rng = paint(), np.random.default_rng(0)
    prediction = np.where(rng.random(SHAPE) < 0.3, 1, annotation % 3).astype(np.uint8)
    volume = store.annotated_volume("a", SCHEME)[0]
    store.save_prediction("a", prediction, prediction, volume.affine, store.prediction_info("a"))
    found = page(trained)
    trained_on = model.split.training["a"]
    means = []
    for place in places:
        counts = dict.fromkeys([(value, what) for value in (1, 2) for what in ("both", "either")], 0)
        for voxel in np.ndindex(*SHAPE):
            is_here = voxel[place.axis] == place.index
            is_learnt = any(voxel[other.axis] == other.index for other in trained_on)
            if not is_here or is_learnt or annotation[voxel] == 0:
                continue
            for value in (1, 2):
                true, said = annotation[voxel] == value, prediction[voxel] == value
                counts[value, "both"] += true and said
                counts[value, "either"] += true or said
        ious = [
            counts[value, "both"] / counts[value, "either"] if counts[value, "either"] else None for value in (1, 2)
        ]
        known = [iou for iou in ious if iou is not None]
        means.append(sum(known) / len(known))
        shown = ", ".join(
            f"{name} {'–' if iou is None else f'{iou:.2f}'}"
            for name, iou in zip(("inside", "tubule"), ious, strict=True)
        )
        assert f"a: IoU {means[-1]:.2f} , {shown}" in found.words
    order = [float(number) for number in re.findall(r"a: IoU (\d\.\d\d)", found.words)]
    assert order == sorted(order)
    assert len(order) == len(places)


def test_nothing_yet(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    found = page(folder)
    for words in ("0 volumes", "There is no volume yet", "Nothing has been trained yet", "Nothing is annotated yet"):
        assert words in found.words
    with pytest.raises(InputError, match="the classes aren't known"):
        page(folder, [])


def test_an_image_without_paint_and_a_damaged_one(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    write_image(folder / "a.nii.gz", seed=1)
    (folder / "b.nii.gz").write_bytes(b"x")
    found = page(folder)
    assert "No model is trained yet" in found.words
    assert "not annotated" in found.words
    assert "b.nii.gz: " in found.words
    assert len([one for one in found.alternatives if one.startswith("Slice of")]) == 3
    assert "annotated: none" in found.strips[0]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("ERROR", "The latest training has failed: the disk is full"),
        ("STOPPED", "The latest training was stopped at"),
    ],
)
def test_how_a_training_ended(status: str, words: str, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    write_image(folder / "a.nii.gz", seed=1)
    models = ModelFolder(folder / "models")
    with models.locked():
        LatestTraining(models).begin(Training("1", {}, Owner.of(os.getpid())))
    assert "A training runs since" in page(folder).words
    LatestTraining(models).end("1", status, "the disk is full")
    assert words in page(folder).words


def test_forecasts(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    (folder / "models").mkdir(parents=True)
    write_image(folder / "a.nii.gz", seed=1)
    entry = {"run": "r", "epoch": 1, "metric": "validation IoU"}
    # IoU = 0.9 - 1.2 / n, and at the end a gain that this doesn't promise.
    scores = [(n, 0.9 - 1.2 / n) for n in (3, 4, 6, 8)]
    history = [{**entry, "slices": slices, "score": score} for slices, score in [*scores, (9, 0.95)]]
    (folder / "models/history.json").write_text(json.dumps(history[:4]), encoding="utf-8")
    words = page(folder).words
    gain = 1.2 / 8 - 1.2 / 9
    assert f"The next slice is expected to add {gain:.3f} to the IoU" in words
    assert "Of 2 earlier forecasts in this project, 2 came true" in words
    (folder / "models/history.json").write_text(json.dumps(history), encoding="utf-8")
    assert "Of 3 earlier forecasts in this project, 2 came true" in page(folder).words


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file"):
        write_report(folder, tmp_path / "file/report.html", CONF)
