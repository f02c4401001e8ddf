"""The folder that keeps the models of one project."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from lib.core.errors import InputError
from lib.core.files import make_folder, remove_abandoned, replacing, write_json
from lib.core.labels import LabelScheme
from lib.core.locking import OwnedLock
from lib.core.plan.paper import choices, differences

from .model import Model, check_fit, load_content

LOCK_SECONDS = 60.0
"""How long to wait for the folder's lock. Nobody holds it for longer than writing a model takes."""


class ScoredModel(TypedDict):
    """A model's score in the history.

    Attributes:
        run, epoch, metric, score: as in ``Model``.
        slices: number of annotated slices in the model's split.
    """

    run: str
    epoch: int
    slices: int
    metric: str
    score: float


class ModelFolder:
    """Where the models of one project are kept.

    =================  =====================================================================================
    ``model.pt``       the published model, which inference uses
    ``plan.json``      its plan, for people
    ``archive/``       earlier published models
    ``history.json``   scores of the published models and of each run's last one, with their annotated slices
    ``checkpoint.pt``  the state that training continues from
    ``stats.json``     training's last report
    ``events/``        TensorBoard events
    ``.lock``          held by whoever changes what others must not change at the same time
    =================  =====================================================================================
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.published = self.path / "model.pt"
        self.plan_path = self.path / "plan.json"
        self.archive = self.path / "archive"
        self.history_path = self.path / "history.json"
        self.checkpoint = self.path / "checkpoint.pt"
        self.stats_path = self.path / "stats.json"
        self.events = self.path / "events"
        # One lock object, because the thread that holds it can acquire it again.
        self._lock = OwnedLock(self.path / ".lock", f"the models folder {self.path}")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all other threads and processes out, on this computer and on others that share the folder.

        Raises:
            Locked: another one has held the lock for a minute.
            OSError: the folder can't be written to.
        """
        # The lock would create the folder, but not so that it survives a loss of power.
        make_folder(self.path)
        with self._lock.hold(LOCK_SECONDS):
            yield

    def remove_abandoned(self) -> None:
        """Remove the incomplete files of processes that have ended."""
        for folder in (self.path, self.archive):
            remove_abandoned(folder)

    def is_published(self) -> bool:
        return self.published.is_file()

    def published_file(self) -> tuple[int, ...] | None:
        """Identify the published model's file: each model has another. None if there is no such file."""
        try:
            # Opening makes a network file system ask its server what is there now.
            with self.published.open("rb") as file:
                status = os.fstat(file.fileno())
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    def load(self, scheme: LabelScheme, channels: int | None = None) -> Model:
        """Read the published model.

        Raises:
            InputError: there is none, or it doesn't fit the scheme or the number of channels.
        """
        model = Model.load(self.published)
        check_fit(self.published, model.plan, scheme, channels)
        return model

    def publish(self, model: Model) -> None:
        """Publish a model; first archive the published model if it is of another run."""
        with self.locked():
            if self.is_published() and self._published_run() != model.run:
                names = (re.fullmatch(r"model_(\d+)\.pt", path.name) for path in self.archive.glob("*.pt"))
                numbers = [int(name[1]) for name in names if name]
                with replacing(self.archive / f"model_{1 + max(numbers, default=0):04d}.pt") as temporary:
                    shutil.copyfile(self.published, temporary)
            model.save(self.published)
            self.remember(model)
            explained = {"differs_from_paper": differences(model.plan), "left_open_by_paper": choices(model.plan)}
            write_json(self.plan_path, {**model.plan.to_json(), **explained})

    def remember(self, model: Model) -> None:
        """Add a model's score to the history, whether the model is published or not."""
        slices = sum(map(len, (*model.split.training.values(), *model.split.validation.values())))
        entry = ScoredModel(run=model.run, epoch=model.epoch, slices=slices, metric=model.metric, score=model.score)
        with self.locked():
            write_json(self.history_path, [*self.history(), entry])

    def history(self) -> list[ScoredModel]:
        """Return the scores in the history."""
        fields = ScoredModel.__required_keys__
        try:
            known: list[ScoredModel] = json.loads(self.history_path.read_text(encoding="utf-8"))
            return [entry for entry in known if isinstance(entry, dict) and entry.keys() >= fields]
        except (FileNotFoundError, TypeError, ValueError):
            # A damaged file is replaced, because it serves estimates only.
            return []

    def _published_run(self) -> str | None:
        """Return the run of the published model; None if the file can't be read. It is then archived as it is."""
        try:
            return str(load_content(self.published)["run"])
        except InputError:
            return None
