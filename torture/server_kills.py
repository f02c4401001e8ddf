"""kill -9 of the real server and its processes, during submissions, restores by the command line, and a training."""

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import requests
import torch

from project import APP
from serving import Server, as_slicer_sends, write_image, write_label

from .ledger import Ledger, annotation, fingerprint, leftovers
from .outcome import Outcome, announce
from .processes import orphans, processes_of

IMAGES = ("a", "b")
CLIENTS = 3
SOONEST, LATEST = 0.5, 15.0
"""Seconds after which the server is killed. A training process takes some to start."""


def kill_servers(folder: Path, kills: int, seed: int, outcome: Outcome) -> None:
    """Kill servers; add what was found to the outcome."""
    studies = folder / "studies"
    studies.mkdir(parents=True)
    for image in IMAGES:
        write_image(studies / f"{image}.nii.gz")
    chance, ledger, had_model = random.Random(seed), Ledger(), False
    outcome.facts.update(server=kills, trainings=0, restores=0)
    for kill in range(kills + 1):
        server = Server(studies, folder, width="2")
        found = list[str]()
        try:
            server.wait()
            found += [*ledger.faults(studies, thorough=kill == kills), *leftovers(studies, server.tmp)]
            found += _torn_models(studies / "models", had_model)
            if kill < kills:
                clients = _Clients(server, folder, ledger, chance.random())
                clients.start()
                time.sleep(chance.uniform(SOONEST, LATEST))
                had_model = had_model or (studies / "models/model.pt").exists()
                _kill(server, chance)
                found += clients.end()
                outcome.facts["trainings"] += clients.trainings
                outcome.facts["restores"] += clients.restores
        except AssertionError as error:
            found.append(f"doesn't start: {error}")
        finally:
            server.process.kill()
            server.process.wait()
            found += orphans(server.tmp)
        outcome.faults += [f"server, seed {seed}, kill {kill}: {fault}" for fault in found]
        announce(f"kills: {kill} of the server, {len(outcome.faults)} faults")
    outcome.facts["acknowledged"] += ledger.count()


def _kill(server: Server, chance: random.Random) -> None:
    """Kill the server, or one of its processes and then the server, or all at the same moment."""
    others = [process for process in processes_of(server.tmp) if process.pid != server.process.pid]
    what = chance.random()
    if what < 0.4 and others:
        with suppress(psutil.Error):
            chance.choice(others).kill()
        # Meanwhile clients go on.
        time.sleep(chance.uniform(0, 2))
    server.process.kill()
    if what > 0.8:
        for process in others:
            with suppress(psutil.Error):
                process.kill()
    server.process.wait()


def _torn_models(folder: Path, had_model: bool) -> list[str]:
    """Return which files of the models' folder are lost or can't be read."""
    found = ["model.pt: was published, and is lost"] if had_model and not (folder / "model.pt").exists() else []
    for path in [*folder.glob("*.pt"), *folder.glob("archive/*.pt"), *folder.glob("*.json")]:
        try:
            if path.suffix == ".pt":
                torch.load(path, map_location="cpu", weights_only=True)
            else:
                json.loads(path.read_bytes())
        except Exception as error:
            found.append(f"{path.name}: torn ({error!r})")
    return found


class _Clients:
    """Annotators who submit, one who trains, and one who restores at the command line."""

    def __init__(self, server: Server, folder: Path, ledger: Ledger, seed: float) -> None:
        self.server, self.folder, self.ledger, self.seed = server, folder, ledger, seed
        self.trainings = self.restores = 0
        self._faults = list[str]()
        self._lock, self._over = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._guarded, args=(self._annotate, n)) for n in range(CLIENTS)]
        self._threads += [threading.Thread(target=self._guarded, args=(work,)) for work in (self._train, self._restore)]
        self._command: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def end(self) -> list[str]:
        """End them, the command line in half of the cases by killing it too; return what went wrong."""
        self._over.set()
        if self.seed < 0.5 and self._command:
            self._command.kill()
        for thread in self._threads:
            thread.join()
        return self._faults

    def _guarded(self, work: Callable[..., None], *arguments: int) -> None:
        try:
            # Requests that the server had no time to answer fail in one of these ways.
            with suppress(requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                work(*arguments)
        except Exception as error:
            self._faults.append(f"client: {error!r}")

    def _annotate(self, client: int) -> None:
        chance = random.Random(f"{self.seed} {client}")
        while not self._over.is_set():
            number, image = chance.randrange(1 << 40), chance.choice(IMAGES)
            array = annotation(number)
            label, params = as_slicer_sends(array)
            file = write_label(self.folder / f"client-{client}.nii.gz", label)
            with self._lock:
                self.ledger.send(image, fingerprint(array))
            reply = self.server.put_label(image, file, {**params, "client_id": f"client {client}"})
            if reply.status_code == 200:
                with self._lock:
                    self._faults += self.ledger.acknowledge(image, reply.json()["version"], fingerprint(array))
            elif reply.status_code >= 500 and reply.status_code not in (503, 507):
                self._faults.append(f"a submission was answered by {reply.status_code}: {reply.text[:200]}")

    def _train(self) -> None:
        while not self._over.wait(1.0):
            if self.server.get("/train/", params={"check_if_running": True}).status_code == 200:
                continue
            reply = requests.post(f"{self.server.url}/train/sparse_unet3d", json={"max_epochs": 10_000}, timeout=60)
            self.trainings += reply.status_code == 200

    def _restore(self) -> None:
        command = [sys.executable, str(APP), "annotations", "restore"]
        chance = random.Random(f"{self.seed} restore")
        while not self._over.is_set():
            image = chance.choice(IMAGES)
            with self._lock:
                kept = self.ledger.acknowledged(image)
            if len(kept) < 2:
                time.sleep(0.1)
                continue
            version = chance.choice(sorted(kept)[:-1])
            self._command = subprocess.Popen(
                [*command, image, str(version), "--studies", str(self.server.studies)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            said = self._command.communicate()[0]
            if self._command.returncode == 0 and (number := re.search(r"Version (\d+) of", said)):
                with self._lock:
                    self._faults += self.ledger.acknowledge(image, int(number[1]), kept[version])
                self.restores += 1
            elif self._command.returncode > 0 and "current one already" not in said:
                self._faults.append(f"restore: {said[-300:]}")
