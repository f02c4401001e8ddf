"""Many clients submit at once, while a training and segmentations run."""

import random
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import requests

from .annotator import Annotators, order_faults, start_server
from .outcome import Outcome, Row

ROW = Row(
    "crowd",
    "20 clients, 1 000 submissions, while a training and segmentations run",
    "all kept, in the order of their answers; median answer ≤ 3 s, of `/info` ≤ 0.5 s",
)

LONGEST_ANSWER, LONGEST_INFO = 3.0, 0.5
"""Bars for the medians, in s."""

IMAGES = ("a", "b", "c", "d")


def measure(folder: Path, clients: int, submissions: int, timed: bool = True, seed: int = 0) -> Outcome:
    """Submit and compare.

    Args:
        folder: an empty one.
        clients: how many submit at once, each as soon as it was answered.
        submissions: of all together.
        timed: whether answers that are too slow count as faults.
        seed: of the random choices.
    """
    server = start_server(folder, IMAGES)
    crowd, outcome, over = Annotators(server, folder, IMAGES), Outcome(), threading.Event()
    infos, segmented, trainings = list[float](), list[float](), 0

    def annotate(client: int) -> None:
        chance = random.Random(f"{seed} {client}")
        for _ in range(client, submissions, clients):
            reply = crowd.submit(f"client {client}", chance)
            if reply.status_code != 200:
                crowd.faults.append(f"a submission was answered by {reply.status_code}: {reply.text[:200]}")

    def train() -> None:
        nonlocal trainings
        while not over.wait(0.5):
            if server.get("/train/", params={"check_if_running": True}).status_code != 200:
                reply = requests.post(f"{server.url}/train/sparse_unet3d", json={"max_epochs": 10_000}, timeout=600)
                trainings += reply.status_code == 200

    def segment() -> None:
        while not over.is_set():
            begin = time.monotonic()
            server.infer("a").raise_for_status()
            segmented.append(time.monotonic() - begin)

    def look() -> None:
        while not over.wait(0.2):
            begin = time.monotonic()
            server.get("/info/").raise_for_status()
            infos.append(time.monotonic() - begin)

    def guarded(work: Callable[..., None], *arguments: int) -> threading.Thread:
        def run() -> None:
            try:
                work(*arguments)
            except Exception as error:
                crowd.faults.append(f"{work.__name__}: {error!r}")

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    try:
        # The training learns from this one, and is at work when the crowd comes.
        crowd.submit("first client", random.Random(seed))
        others = [guarded(work) for work in (train, segment, look)]
        server.wait_until(lambda: server.jobs())
        begin = time.monotonic()
        for thread in [guarded(annotate, client) for client in range(clients)]:
            thread.join()
        seconds = time.monotonic() - begin
        over.set()
        for thread in others:
            thread.join()
        server.get("/info/").raise_for_status()
        server.stop()
    finally:
        over.set()
        server.process.kill()
        server.process.wait()
    answers = [one.answered - one.sent for one in crowd.kept]
    if len(crowd.kept) != submissions + 1:
        crowd.faults.append(f"{len(crowd.kept)} of {submissions + 1} submissions were acknowledged")
    outcome.faults = [*crowd.faults, *crowd.ledger.faults(server.studies, thorough=True), *order_faults(crowd.kept)]
    answer, info = statistics.median(answers), statistics.median(infos or [0.0])
    if timed:
        outcome.faults += [f"the median answer took {answer:.2f} s"] if answer > LONGEST_ANSWER else []
        outcome.faults += [f"the median answer of /info took {info:.2f} s"] if info > LONGEST_INFO else []
    outcome.facts = {
        "submissions": len(crowd.kept),
        "seconds": round(seconds, 1),
        "answer_median": round(answer, 3),
        "answer_longest": round(max(answers), 3),
        "info_median": round(info, 3),
        "info_longest": round(max(infos or [0.0]), 3),
        "segmentations": len(segmented),
        "trainings": trainings,
    }
    outcome.measured = (
        f"{len(crowd.kept)} submissions kept in {seconds:.0f} s; median answer {answer:.2f} s (longest "
        f"{max(answers):.1f}), of `/info` {info:.2f} s (longest {max(infos or [0.0]):.1f}); {len(segmented)} "
        f"segmentations and {trainings} training meanwhile"
    )
    return outcome
