"""A small process that drives the store as the server does: starts as it, then submits, imports, restores, publishes.

It starts within a fraction of a second, so that it can be killed hundreds of times. It says what it is about to do and
what was done over a pipe, as lines of JSON.
"""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lib.commands.annotations import restore_version
from lib.core.annotation.split import SliceSplit
from lib.core.device.machine import Machine
from lib.core.files import sync_file, sync_folder
from lib.core.model.folder import ModelFolder
from lib.core.model.model import Model, build_network
from lib.core.plan.options import PlanOptions
from lib.core.plan.plan import Plan
from lib.core.training.publishing import Publisher
from lib.core.training.score import Score
from lib.server.store import decoding
from lib.server.store.annotations import FINAL, AnnotationReader
from lib.server.store.datastore import AnnotationStore
from lib.server.store.project_archive import export_project, import_project
from lib.server.temporary import use_own_folder
from serving import as_slicer_sends, write_label
from stores import SCHEME

from .ledger import Ledger, ModelLedger, annotation, fingerprint

IMAGES = ("a", "b")

Say = Callable[..., None]


def model(number: int) -> Model:
    """Return a model of the run ``run NUMBER`` whose weights are all this number modulo 1000."""
    plan = Plan(scheme=SCHEME, channels=1, spacing=None, width=2, tile=(92, 92, 92))
    network = build_network(plan).eval()
    with torch.no_grad():
        for value in network.state_dict().values():
            value.fill_(number % 1000)
    return Model(network, plan, SliceSplit({}, {}), 0.5, "validation IoU", f"run {number}", 1)


class StoringProcess:
    """What the process does with the folder."""

    def __init__(self, studies: Path, temporary: Path, say: Say) -> None:
        """Start as the server does."""
        os.environ["TMPDIR"] = str(temporary)
        use_own_folder()
        # Afterwards the process that decodes is at work, and submissions take milliseconds.
        decoding.decode_image(str(studies / f"{IMAGES[0]}.nii.gz"), decoding.default_limit())
        self.store = AnnotationStore(str(studies), SCHEME)
        self.store.serve(watch=False)
        self.models = ModelFolder(studies / "models")
        self.models.remove_abandoned()
        self.studies, self.temporary, self.say = studies, temporary, say

    def submit(self, image: str, number: int) -> None:
        """Submit the annotation of this number."""
        label, params = as_slicer_sends(annotation(number))
        file = write_label(self.temporary / "upload.nii.gz", label)
        self.say("submit", image, number)
        info = self.store.save_label(image, str(file), "final", params).info
        self.say("submitted", image, number, info["version"])

    def adopt(self, image: str, number: int) -> None:
        """Put the annotation of this number into the folder by hand, and let the store import it."""
        target = self.studies / "labels" / FINAL / f"{image}.nii.gz"
        target.parent.mkdir(exist_ok=True)
        file = write_label(target.with_name(f".{target.name}"), annotation(number))
        sync_file(file)
        self.say("submit", image, number)
        file.rename(target)
        sync_folder(target.parent)
        self.store.refresh()
        self.say("submitted", image, number, max(self.store.versions(image)))

    def move(self, number: int) -> None:
        """Export the project, and import it into another folder."""
        self.say("move", number)
        file = self.studies.with_name(f"moved-{number}.zip")
        export_project(AnnotationReader(str(self.studies)), self.models.path, file)
        import_project(file, file.with_suffix(""))
        file.unlink()

    def restore(self, image: str, version: int) -> None:
        """Restore a version as the command line does."""
        self.say("restore", image, version)
        said = restore_version(self.studies, image, version)
        self.say("restored", image, version, int(said.split()[1]))

    def publish(self, number: int) -> None:
        """Publish a model as a training does."""
        publisher = Publisher(
            self.models, SCHEME, 1, PlanOptions(), Machine("cpu", 1 << 30), lambda plan: (), lambda: None
        )
        new = model(number)
        self.say("publish", new.run)
        # Nothing is scored, so that each model replaces the one before it.
        if publisher.offer(new, Score.of((), SCHEME)):
            self.say("published", new.run)

    def work(self, seed: int) -> None:
        """Do one thing after the other, for ever."""
        chance, number = random.Random(seed), seed * 10_000
        while True:
            number += 1
            image, what = chance.choice(IMAGES), chance.random()
            last = max(self.store.versions(image), default=0)
            if what < 0.25:
                self.publish(number)
            elif what < 0.45 and last > 1:
                self.restore(image, chance.randrange(1, last))
            elif what < 0.6:
                self.adopt(image, number)
            elif what < 0.7:
                self.move(number)
            else:
                self.submit(image, number)


def main(studies: Path, temporary: Path, seed: int, out: int, go: int) -> None:
    """Start, say that, wait for a byte on ``go``, and work until killed."""

    def say(*words: Any) -> None:
        os.write(out, json.dumps(words).encode() + b"\n")

    process = StoringProcess(studies, temporary, say)
    say("ready")
    os.read(go, 1)
    process.work(seed)


class Notes:
    """What processes that store said, noted in the ledgers.

    Attributes:
        ledger, models: of the folder.
        moved: what was in it when it was moved, by the name of the new folder.
    """

    def __init__(self) -> None:
        self.ledger, self.models = Ledger(), ModelLedger()
        self.moved: dict[str, Ledger] = {}
        self._voxels = ""

    def take(self, what: str, *words: Any) -> list[str]:
        """Note something that a process said; return what is wrong with it."""
        if what == "submit":
            image, number = words
            self.ledger.send(image, fingerprint(annotation(number)))
            self._voxels = fingerprint(annotation(number))
        elif what == "restore":
            image, version = words
            # It may be one that was stored when a process was killed before it could say so.
            self._voxels = self.ledger.acknowledged(image).get(version, "")
        elif what in ("submitted", "restored") and self._voxels:
            return self.ledger.acknowledge(words[0], words[2], self._voxels)
        elif what == "move":
            self.moved[f"moved-{words[0]}"] = self.ledger.copy()
        elif what == "publish":
            self.models.send(words[0])
        elif what == "published":
            self.models.acknowledge(words[0])
        elif what == "failed":
            return [f"it failed: {words[0]}"]
        return []
