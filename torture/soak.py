"""Hours of ordinary use, and bad requests among them: memory, descriptors and temporary files stay as they are."""

import random
import statistics
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import requests

from serving import NAMED

from .annotator import Annotators, start_server
from .outcome import Outcome, Row, announce
from .processes import descriptors_of, memory_of

ROW = Row(
    "soak",
    "one hour of submissions, segmentations, trainings, downloads and bad requests",
    "memory, descriptors and temporary files flat",
)

IMAGES = ("a", "b")
PAUSE = 1.0
"""Seconds between two things that a client does."""

SETTLED = 0.25
"""Share of the time after which the server counts as settled."""

MOST_GROWTH, MOST_DESCRIPTORS = 1.1, 5
"""By how much the server's memory may grow (times) from the second quarter to the last, and its descriptors (more)."""


def measure(folder: Path, seconds: float, timed: bool = True, seed: int = 0) -> Outcome:
    """Use a server and watch it.

    Args:
        folder: an empty one.
        seconds: how long.
        timed: whether growth counts as a fault, which it is once the server has settled.
        seed: of the random choices.
    """
    server = start_server(folder, IMAGES)
    people, over = Annotators(server, folder, IMAGES), threading.Event()
    samples, done = list[tuple[float, int, int]](), dict[str, int]()

    def work(client: int) -> None:
        chance = random.Random(f"{seed} {client}")
        while not over.wait(PAUSE):
            what = chance.choice(("submit", "segment", "train", "download", "look", "bad", "session"))
            allowed: tuple[int, ...] = (200,)
            try:
                if what == "submit":
                    reply = people.submit(f"client {client}", chance)
                elif what == "segment":
                    reply = server.infer(chance.choice(IMAGES))
                elif what == "train":
                    options = {"max_epochs": 2}
                    reply = requests.post(f"{server.url}/train/sparse_unet3d", json=options, timeout=600)
                    # Another one runs, or nothing is annotated yet.
                    allowed = (200, 400, 409, 429)
                elif what == "download":
                    reply, allowed = server.get("/datastore/dataset"), (200, 404)
                elif what == "look":
                    reply = server.next_sample()
                elif what == "session":
                    with (server.studies / "a.nii.gz").open("rb") as image:
                        url = f"{server.url}/session/"
                        reply = requests.put(url, files={"files": ("a.nii.gz", image)}, timeout=600)
                else:
                    bad = folder / f"bad-{client}.nii.gz"
                    bad.write_bytes(chance.randbytes(100_000))
                    reply, allowed = server.put_label("a", bad, NAMED), (400,)
            except requests.RequestException as error:
                people.faults.append(f"{what}: {error!r}")
                continue
            done[what] = done.get(what, 0) + 1
            if reply.status_code not in allowed:
                people.faults.append(f"{what} was answered by {reply.status_code}: {reply.text[:200]}")

    threads = [threading.Thread(target=work, args=(client,)) for client in range(2)]
    begin, process = time.monotonic(), psutil.Process(server.process.pid)
    try:
        for thread in threads:
            thread.start()
        while (passed := time.monotonic() - begin) < seconds:
            samples.append((passed, memory_of(process), descriptors_of(process)))
            if len(samples) % 60 == 0:
                announce(f"soak: {passed:.0f} s, {samples[-1][1] / 1e6:.0f} MB, {samples[-1][2]} descriptors")
            time.sleep(1.0)
        over.set()
        for thread in threads:
            thread.join()
        requests.delete(f"{server.url}/train/", timeout=600)
        server.wait_until(lambda: not server.jobs())
        left = _temporary_files(server.tmp)
        people.faults += people.ledger.faults(server.studies, thorough=True)
        server.stop()
    finally:
        over.set()
        server.process.kill()
        server.process.wait()
    settled = [sample for sample in samples if sample[0] >= SETTLED * seconds] or samples
    early = [sample for sample in settled if sample[0] < 2 * SETTLED * seconds] or settled
    late = [sample for sample in settled if sample[0] >= (1 - SETTLED) * seconds] or settled
    memory = [statistics.median(sample[1] for sample in part) / 1e6 for part in (early, late)]
    descriptors = [max(sample[2] for sample in part) for part in (early, late)]
    if timed and memory[1] > MOST_GROWTH * memory[0]:
        people.faults.append(f"memory grew from {memory[0]:.0f} to {memory[1]:.0f} MB")
    if timed and descriptors[1] > descriptors[0] + MOST_DESCRIPTORS:
        people.faults.append(f"descriptors grew from {descriptors[0]} to {descriptors[1]}")
    people.faults += [f"left over: {name}" for name in left]
    return Outcome(
        f"{sum(done.values())} requests in {seconds:g} s; memory {memory[0]:.0f} MB in the second quarter, "
        f"{memory[1]:.0f} MB in the last; at most {descriptors[0]} and {descriptors[1]} descriptors; {len(left)} "
        "temporary files at the end",
        {"requests": done, "seconds": seconds, "memory_mb": memory, "descriptors": descriptors, "left": left},
        people.faults,
    )


def _temporary_files(temporary: Path) -> list[str]:
    """Return the files in the server's own folder, except those of sessions, which have an age."""
    found = []
    with suppress(FileNotFoundError):
        for path in temporary.glob("sparse_unet3d-*/**/*"):
            if path.is_file() and "session" not in str(path.relative_to(temporary)):
                found.append(str(path.relative_to(temporary)))
    return found
