import json
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lib.core.annotation.slices import AnnotatedSlice
from lib.core.annotation.split import SliceSplit
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.model.folder import ModelFolder
from lib.core.model.model import FORMAT, Model, build_network, load_content
from lib.core.plan.plan import Plan

SCHEME = LabelScheme(("inside", "tubule"), "outside")


def model(run: str = "first", score: float = 0.5, scheme: LabelScheme = SCHEME) -> Model:
    plan = Plan(scheme, channels=2, spacing=None, width=2, tile=(100, 100, 100))
    split = SliceSplit({"a": [AnnotatedSlice(0, 3)]}, {"a": [AnnotatedSlice(2, 5)]})
    return Model(build_network(plan), plan, split, score, "validation IoU", run, 7)


def test_model_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    folder, saved = ModelFolder(tmp_path), model()
    folder.publish(saved)
    loaded = folder.load(SCHEME, channels=2)
    assert (loaded.plan, loaded.split, loaded.score) == (saved.plan, saved.split, saved.score)
    assert (loaded.metric, loaded.run, loaded.epoch) == ("validation IoU", "first", 7)
    image = torch.rand(1, 2, 100, 100, 100)
    with torch.no_grad():
        torch.testing.assert_close(loaded.network(image), saved.network.eval()(image))
    assert '"foreground"' in folder.plan_path.read_text()


def test_model_that_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path)
    folder.publish(model())
    with pytest.raises(InputError, match=r"model.pt: .*inside, tubule; background outside.*nucleus; background rest"):
        folder.load(LabelScheme(("nucleus",), "rest"))
    with pytest.raises(InputError, match=r"model.pt: .* 2 channel\(s\), this one has 3"):
        folder.load(SCHEME, channels=3)


@pytest.mark.parametrize("content", [b"", b"no model", None])
def test_missing_or_broken_file_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    folder = ModelFolder(tmp_path)
    if content is not None:
        folder.published.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.pt: "):
        folder.load(SCHEME)


def test_truncated_model_file_is_refused_by_name(tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path)
    folder.publish(model())
    whole = folder.published.read_bytes()
    folder.published.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"model\.pt: cannot be read"):
        folder.load(SCHEME)


def test_earlier_runs_models_are_kept(tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path)
    for run, score in (("first", 0.4), ("first", 0.5), ("second", 0.6), ("second", 0.7), ("third", 0.8)):
        folder.publish(model(run, score))
    assert folder.load(SCHEME).score == 0.8
    (folder.archive / "model_0001.pt").rename(folder.archive / "model_0007.pt")
    folder.publish(model("fourth", 0.9))
    assert len(list(folder.archive.iterdir())) == 3
    assert Model.load(folder.archive / "model_0008.pt").score == 0.8
    (folder.archive / "model_0008.pt").unlink()
    (folder.archive / "model_0007.pt").rename(folder.archive / "model_0001.pt")
    archived = sorted(folder.archive.iterdir())
    assert [path.name for path in archived] == ["model_0001.pt", "model_0002.pt"]
    assert [Model.load(path).score for path in archived] == [0.5, 0.7]


def test_scores_of_published_models_are_kept(tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path)
    assert folder.history() == []
    folder.publish(model("first", 0.5))
    folder.publish(model("second", 0.75))
    entry = {"epoch": 7, "slices": 2, "metric": "validation IoU"}
    first, second = {"run": "first", "score": 0.5, **entry}, {"run": "second", "score": 0.75, **entry}
    assert folder.history() == [first, second]
    folder.history_path.write_text(json.dumps([{"run": "by an earlier version"}, 1, second]))
    assert folder.history() == [second]
    for damaged in ("[damaged", "1"):
        folder.history_path.write_text(damaged)
        folder.publish(model("first", 0.5))
        assert folder.history() == [first]


def publish_often(folder: str, name: str) -> None:
    for number in range(10):
        ModelFolder(folder).publish(model(f"{name} {number}", 0.5))


def test_processes_that_publish_at_the_same_time_lose_no_model_and_no_score(tmp_path: Path) -> None:
    started = multiprocessing.get_context("spawn")
    processes = [started.Process(target=publish_often, args=(str(tmp_path), name)) for name in ("one", "other")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    folder = ModelFolder(tmp_path)
    every = {f"{name} {number}" for name in ("one", "other") for number in range(10)}
    assert sorted(entry["run"] for entry in folder.history()) == sorted(every)
    archived = [Model.load(path).run for path in folder.archive.iterdir()]
    assert {*archived, folder.load(SCHEME).run} == every
    assert len(archived) == 19


def test_the_precision_of_the_score_comes_back_with_the_model(tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path)
    folder.publish(replace(model(), precision=torch.bfloat16))
    assert folder.load(SCHEME).precision == torch.bfloat16
    content = torch.load(folder.published, weights_only=True)
    del content["precision"]
    torch.save(content, folder.published)
    assert folder.load(SCHEME).precision == torch.float32


@pytest.mark.parametrize("name", ["model_0001 (copy).pt", "model_.pt", "model_x.pt", "backup.pt", "model_0007.pt.part"])
def test_other_files_in_the_archive_are_left_alone(tmp_path: Path, name: str) -> None:
    folder = ModelFolder(tmp_path)
    folder.publish(model("first"))
    folder.archive.mkdir()
    (folder.archive / name).write_bytes(b"mine")
    folder.publish(model("second"))
    folder.publish(model("third"))
    assert (folder.archive / name).read_bytes() == b"mine"
    assert Model.load(folder.archive / "model_0002.pt").run == "second"


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(5, "Input/output error"), RuntimeError("can't allocate memory")]
)
def test_a_sound_file_is_not_called_broken(tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """If memory is short or the disk is inaccessible, nobody should be told to remove the model."""
    folder = ModelFolder(tmp_path)
    folder.publish(model())

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(type(error)):
        folder.load(SCHEME)


class Hostile:
    """Makes a file when a program unpickles it without care."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("content", [lambda hostile: hostile, lambda hostile: {"format": FORMAT, "plan": hostile}])
def test_a_model_file_runs_no_code(tmp_path: Path, content: Callable[[Hostile], object]) -> None:
    torch.save(content(Hostile(tmp_path / "done")), tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"model\.pt: cannot be read as a model file"):
        load_content(tmp_path / "model.pt")
    assert not (tmp_path / "done").exists()
    torch.load(tmp_path / "model.pt", weights_only=False)
    assert (tmp_path / "done").exists()
