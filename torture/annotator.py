"""Clients who submit, and the ledger that all clients of a server share."""

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import requests

from serving import Server, as_slicer_sends, publish, write_image, write_label
from stores import SCHEME

from .ledger import Ledger, annotation, fingerprint


@dataclass(frozen=True)
class Submission:
    """A submission that was acknowledged: when it was sent and answered, by a clock that runs evenly, in s."""

    image: str
    version: int
    sent: float
    answered: float


class Annotators:
    """What all clients of a server know."""

    def __init__(self, server: Server, folder: Path, images: Sequence[str]) -> None:
        """Use a folder for the files that are sent."""
        self.server, self.folder, self.images = server, folder, images
        self.ledger = Ledger()
        self.kept = list[Submission]()
        self.faults = list[str]()
        self._lock = threading.Lock()

    def submit(self, client: str, chance: random.Random) -> requests.Response:
        """Submit an annotation of one of the images, and note how it was answered."""
        number, image = chance.randrange(1 << 40), chance.choice(self.images)
        array = annotation(number)
        label, params = as_slicer_sends(array)
        file = write_label(self.folder / f"{client}.nii.gz", label)
        voxels = fingerprint(array)
        with self._lock:
            self.ledger.send(image, voxels)
        sent = time.monotonic()
        reply = self.server.put_label(image, file, {**params, "client_id": client})
        answered = time.monotonic()
        if reply.status_code == 200:
            with self._lock:
                self.faults += self.ledger.acknowledge(image, reply.json()["version"], voxels)
                self.kept.append(Submission(image, reply.json()["version"], sent, answered))
        return reply


def order_faults(kept: Sequence[Submission]) -> list[str]:
    """Return the versions that were answered before another was sent, and have a higher number."""
    faults = []
    for image in sorted({one.image for one in kept}):
        latest = 0.0
        for one in sorted((one for one in kept if one.image == image), key=lambda one: one.version):
            if one.answered < latest:
                faults.append(f"{image}, version {one.version}: answered before a lower version was sent")
            latest = max(latest, one.sent)
    return faults


def start_server(folder: Path, images: Sequence[str], upload: str | None = None, tmp: Path | None = None) -> Server:
    """Start a server on images, with a small model.

    Args:
        folder: for the folder that is served.
        images: their names.
        upload: as ``--conf upload``.
        tmp: for log and temporary files, if not the same.
    """
    studies = folder / "studies"
    studies.mkdir(parents=True)
    for number, image in enumerate(images):
        write_image(studies / f"{image}.nii.gz", seed=number)
    publish(studies / "models", SCHEME)
    if upload is None:
        return Server(studies, tmp or folder, width="2").wait()
    return Server(studies, tmp or folder, width="2", upload=upload).wait()
