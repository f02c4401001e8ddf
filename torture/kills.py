"""kill -9 at random moments: of a small process that drives the store, and of the real server and its processes."""

import json
import os
import random
import select
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from lib.server.store.annotations import AnnotationReader
from lib.server.store.datastore import AnnotationStore
from lib.server.store.project_archive import export_project, import_project
from serving import write_image
from stores import SCHEME

from .ledger import leftovers
from .outcome import Outcome, Row, announce
from .processes import orphans
from .server_kills import kill_servers
from .storing import IMAGES, Notes, main

ROW = Row(
    "kills",
    "`kill -9` at random moments during submit, restore, train, publish and import; server and its processes",
    "500 kills: 0 acknowledged lost, 0 torn, 0 leftovers after restart, 0 orphans",
)

FRESH = 40
"""Kills after which a new folder is begun, because looking at all versions takes longer and longer."""

LONGEST = 0.5
"""Seconds after which the process is killed at the latest, once it works. It does some twenty things in this time."""

DURING_START = 0.1
"""Share of the kills that come while the process starts."""

STARTS_WITHIN = 60.0
"""Seconds within which the process must start."""


def measure(folder: Path, kills: int, on_server: int, seed: int = 0) -> Outcome:
    """Kill ``kills`` times, ``on_server`` of these times the real server.

    Args:
        folder: an empty one.
        kills: all of them.
        on_server: those of the real server.
        seed: of the moments.
    """
    outcome = Outcome(facts={"acknowledged": 0, "published": 0, "moved": 0, "small_process": 0, "server": 0})
    done, facts = 0, outcome.facts
    while done < kills - on_server:
        part = min(FRESH, kills - on_server - done)
        _kill_small_processes(folder / f"small-{done}", part, seed + done + 1, outcome)
        done += part
        announce(f"kills: {done} of a small process, {len(outcome.faults)} faults")
    facts["small_process"] = done
    if on_server:
        kill_servers(folder / "server", on_server, seed, outcome)
    outcome.measured = (
        f"{done} kills of a small process that drives the store as the server does and {facts['server']} of the real "
        f"server; {facts['acknowledged']} versions and {facts['published']} models were acknowledged, "
        f"{facts['moved']} times the project was moved"
    )
    return outcome


def _kill_small_processes(folder: Path, kills: int, seed: int, outcome: Outcome) -> None:
    studies, temporary = folder / "studies", folder / "tmp"
    for path in (studies, temporary):
        path.mkdir(parents=True)
    for image in IMAGES:
        write_image(studies / f"{image}.nii.gz")
    chance, notes = random.Random(seed), Notes()
    ledger, models = notes.ledger, notes.models
    for kill in range(kills + 1):
        thorough = kill == kills
        during_start = not thorough and chance.random() < DURING_START
        child = _Child(studies, temporary, seed * 1000 + kill)
        try:
            if during_start:
                time.sleep(chance.uniform(0, LONGEST))
                continue
            child.wait_until_ready()
            faults = [*ledger.faults(studies, thorough), *models.faults(studies / "models")]
            faults += leftovers(studies, temporary)
            if not thorough:
                child.go()
                time.sleep(chance.uniform(0, LONGEST))
        except (OSError, ValueError, TimeoutError) as error:
            faults = [f"doesn't start: {error!r}"]
        finally:
            child.kill()
            faults = [] if during_start else faults
            for words in child.said():
                faults += notes.take(*words)
            faults += orphans(temporary)
            faults += _moved_faults(folder, notes)
            outcome.faults += [f"small process, seed {seed}, kill {kill}: {fault}" for fault in faults]
    import_project(_exported(studies, folder / "project.zip"), folder / "imported")
    left = [path.name for path in folder.glob(".writing-*")]
    outcome.faults += [f"left over by a move, and not removed by the next one: {name}" for name in left]
    outcome.facts["acknowledged"] += ledger.count()
    outcome.facts["moved"] += len(notes.moved)
    outcome.facts["published"] += len(models.acknowledged)
    shutil.rmtree(folder)


def _moved_faults(folder: Path, notes: Notes) -> list[str]:
    """Return what is wrong with folders into which a project was imported; remove them."""
    faults = list[str]()
    for path in sorted(folder.glob("moved-*")):
        if path.is_dir():
            AnnotationStore(str(path), SCHEME).serve(watch=False)
            faults += [f"{path.name}: {fault}" for fault in notes.moved[path.name].faults(path)]
            shutil.rmtree(path)
        else:
            path.unlink()
    return faults


def _exported(studies: Path, file: Path) -> Path:
    export_project(AnnotationReader(str(studies)), studies / "models", file)
    return file


class _Child:
    """A forked process that runs ``storing.main``."""

    def __init__(self, studies: Path, temporary: Path, seed: int) -> None:
        self._from, out = os.pipe()
        go, self._go = os.pipe()
        self._content = b""
        self.pid = os.fork()
        if not self.pid:
            try:
                main(studies, temporary, seed, out, go)
            except BaseException as error:
                os.write(out, json.dumps(["failed", repr(error)]).encode() + b"\n")
            os._exit(1)
        os.close(out)
        os.close(go)

    def wait_until_ready(self) -> None:
        """Wait until it has started.

        Raises:
            TimeoutError, ValueError: it didn't start.
        """
        while b"\n" not in self._content:
            if not select.select([self._from], [], [], STARTS_WITHIN)[0]:
                raise TimeoutError(f"not within {STARTS_WITHIN:g} s")
            if not (read := os.read(self._from, 4096)):
                raise ValueError("it ended")
            self._content += read
        if b"ready" not in self._content:
            raise ValueError(self._content.decode())

    def go(self) -> None:
        """Let it work."""
        os.write(self._go, b"x")

    def kill(self) -> None:
        """Kill it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def said(self) -> list[list[Any]]:
        """Return what it said, once it was killed; the last line may be missing but is never half a line."""
        while read := os.read(self._from, 1 << 16):
            self._content += read
        os.close(self._from)
        os.close(self._go)
        return [json.loads(line) for line in self._content.splitlines()]
