"""A full disk, a read-only folder, few descriptors, little memory: nothing is lost, and all goes on afterwards."""

import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import requests

from lib.core.errors import InputError
from serving import NAMED, write_label

from .annotator import Annotators, start_server
from .outcome import Outcome, Row, announce
from .processes import processes_of

ROW = Row(
    "limits",
    "disk full at 50 fill levels, read-only folder, 64 file descriptors, 2 GB of memory",
    "0 lost, a clear message, recovers when the limit is lifted",
)

DISK = "16m"
MOST_FREE = 200 * 1024
"""Bytes that are free at the last fill level. A submission needs some tens of thousands."""

DESCRIPTORS, MEMORY = 64, 2 * 10**9
CLIENTS = 20
IMAGES = ("a", "b")
LARGE, LARGE_IMAGE = (400, 400, 300), "large"


def measure(folder: Path, levels: int, seed: int = 0, large: bool = True) -> Outcome:
    """Set each limit on a running server, submit, lift it, and submit again.

    Args:
        folder: an empty one.
        levels: how full the disk is, from quite full to nearly enough space.
        seed: of what is submitted.
        large: whether large label maps are among what is sent to a server with little memory.

    Raises:
        InputError: file systems can't be mounted here.
    """
    disk = folder / "disk"
    disk.mkdir()
    with _small_disk(disk):
        server = start_server(disk, IMAGES, tmp=folder)
        try:
            trial = _Trial(Annotators(server, folder, IMAGES), random.Random(seed))
            trial.go_on("at first")
            trial.fill(disk, levels)
            trial.make_read_only(disk)
            trial.take_descriptors()
            trial.take_memory(CLIENTS if large else 0)
            trial.people.faults += trial.people.ledger.faults(server.studies, thorough=True)
        finally:
            server.process.kill()
            server.process.wait()
            with suppress(psutil.Error):
                for process in processes_of(server.tmp):
                    process.kill()
    told = ", ".join(f"{count} × {answer}" for answer, count in sorted(trial.answers.items()))
    return Outcome(
        f"{levels} fill levels; {trial.people.ledger.count()} submissions acknowledged, none lost; answers {told}",
        {"levels": levels, "acknowledged": trial.people.ledger.count(), "answers": trial.answers},
        trial.people.faults,
    )


@contextmanager
def _small_disk(disk: Path) -> Iterator[None]:
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", disk], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise InputError(f"file systems can't be mounted here ({error}); run this as a user who may") from error
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


class _Trial:
    def __init__(self, people: Annotators, chance: random.Random) -> None:
        self.people, self.server, self.chance = people, people.server, chance
        self.answers: dict[str, int] = {}

    def submit(self, when: str) -> bool:
        """Submit; tell whether it was acknowledged. Without an acknowledgement, there must be a sentence."""
        before = len(self.people.kept)
        try:
            reply = self.people.submit(f"client {random.random()}", self.chance)
        except requests.RequestException as error:
            self._count(type(error).__name__)
            return False
        self._count(f"{when}: {reply.status_code}")
        try:
            sentence = reply.json()["detail"] if reply.status_code != 200 else "stored"
        except (ValueError, LookupError):
            sentence = ""
        if reply.status_code == 500 or len(str(sentence)) < 5:
            self.people.faults.append(f"{when}: answered by {reply.status_code}: {reply.text[:200]}")
        return len(self.people.kept) > before

    def _count(self, answer: str) -> None:
        self.answers[answer] = self.answers.get(answer, 0) + 1

    def go_on(self, when: str) -> None:
        """Submit, which must succeed."""
        if not self.submit(f"after {when}" if when != "at first" else when):
            self.people.faults.append(f"{when}: the submission afterwards wasn't acknowledged")

    def compare(self, when: str) -> None:
        """Compare what is acknowledged with the files."""
        self.people.faults += [f"{when}: {fault}" for fault in self.people.ledger.faults(self.server.studies)]

    def answers_info(self, when: str) -> None:
        """Ask for ``/info``, which needs nothing of what is short."""
        if not self.server.get("/info/").ok:
            self.people.faults.append(f"{when}: /info isn't answered")

    def fill(self, disk: Path, levels: int) -> None:
        """Submit at each fill level of the disk, and train once on a full one."""
        filler = disk / "filler"
        refused = 0
        for level in range(levels):
            free = MOST_FREE * level // levels
            filler.unlink(missing_ok=True)
            _write(filler, max(0, shutil.disk_usage(disk).free - free))
            refused += not self.submit("full disk")
            self.answers_info("full disk")
            self.compare(f"with {free} bytes free")
        if not refused:
            self.people.faults.append("no fill level was too full")
        _write(filler, filler.stat().st_size + shutil.disk_usage(disk).free)
        self._train_in_vain()
        filler.unlink()
        self.go_on("full disk")
        announce(f"limits: {levels} fill levels, {refused} refused, {len(self.people.faults)} faults")

    def _train_in_vain(self) -> None:
        started = requests.post(f"{self.server.url}/train/sparse_unet3d", json={"max_epochs": 2}, timeout=600)
        if not started.ok:
            self._count(f"training on a full disk: {started.status_code}")
            if "full" not in started.text and "space" not in started.text:
                self.people.faults.append(f"a training on a full disk: {started.status_code}: {started.text[:200]}")
            return
        end = time.monotonic() + 300
        while self.server.get("/train/", params={"check_if_running": True}).ok and time.monotonic() < end:
            time.sleep(0.5)
        reply = self.server.get("/train/")
        job = reply.json() if reply.ok else {}
        self._count(f"training on a full disk: {job.get('status', reply.status_code)}")
        if job.get("status") == "ERROR" and "space" not in " ".join(job["details"]):
            self.people.faults.append(f"a training on a full disk says {job['details'][-1][:200]!r}")

    def make_read_only(self, disk: Path) -> None:
        """Submit to a folder that can't be written to."""
        self._remount(disk, "ro")
        if self.submit("read-only"):
            self.people.faults.append("a submission to a read-only folder was acknowledged")
        self.answers_info("read-only")
        self._remount(disk, "rw")
        self.compare("read-only")
        self.go_on("read-only")

    def _remount(self, disk: Path, how: str) -> None:
        # The server keeps files open for writing only while it writes.
        subprocess.run(["mount", "-o", f"remount,{how}", disk], check=True, capture_output=True)

    def take_descriptors(self) -> None:
        """Let many clients submit at once to a server that may open few files."""
        with self._limited("RLIMIT_NOFILE", lambda process: DESCRIPTORS):
            self._crowd(f"{DESCRIPTORS} descriptors")
        self.compare("descriptors")
        self.go_on("few descriptors")

    def take_memory(self, large_ones: int) -> None:
        """Let clients submit to a server whose data may take 2 GB of memory, together with some large label maps."""
        painted = np.zeros(LARGE, np.uint8)
        painted[:, :, 100:200] = 1
        large = write_label(self.people.folder / "label.nii.gz", painted, np.eye(4))
        image = self.people.folder / f"{LARGE_IMAGE}.nii.gz"
        write_label(image, np.zeros(LARGE, np.uint8), np.eye(4))
        self.server.put_image(LARGE_IMAGE, image).raise_for_status()
        when = "2 GB of memory"

        def submit_large(_: int) -> None:
            with suppress(requests.RequestException):
                reply = self.server.put_label(LARGE_IMAGE, large, NAMED)
                self._count(f"{when}, large: {reply.status_code}")

        with self._limited("RLIMIT_DATA", lambda _: MEMORY), ThreadPoolExecutor(CLIENTS) as pool:
            pool.map(submit_large, range(large_ones))
            self._crowd(when)
        self.compare("memory")
        self.go_on("little memory")

    def _crowd(self, when: str) -> None:
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(lambda _: self.submit(when), range(2 * CLIENTS)))

    @contextmanager
    def _limited(self, name: str, limit: Callable[[psutil.Process], int]) -> Iterator[None]:
        # Only Linux limits processes that run already.
        what, processes = getattr(psutil, name), processes_of(self.server.tmp)
        former = [process.rlimit(what) for process in processes]
        for process, (_, most) in zip(processes, former, strict=True):
            process.rlimit(what, (limit(process), most))
        yield
        for process, known in zip(processes, former, strict=True):
            with suppress(psutil.Error):
                process.rlimit(what, known)


def _write(path: Path, size: int) -> None:
    """Write a file of this size, or as much of it as there is space for."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        file.write(bytes(size))
