"""A server that ends or is killed leaves no process: its training saves first."""

import contextlib
import json
import re
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import requests
import torch

from lib.core.labels import LabelScheme
from serving import NAMED, PATIENCE, Server, is_alive, paint, publish, wait_until, write_image, write_label

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("received", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_training_saves_and_all_work_ends_with_the_server(
    received: str, tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    write_image(studies / "small.nii.gz")
    # Segmenting this takes many minutes: if the signal waited for it, the test would hang.
    write_image(studies / "large.nii.gz", (300, 300, 80))
    publish(studies / "models", LabelScheme(("inside", "tubule"), "outside"), width=32)
    server = start_server(studies, memory="0.5", width="2").wait()
    label = write_label(tmp_path / "label.nii.gz", paint())
    server.put_label("small", label, NAMED).raise_for_status()
    task = server.client.train_start("sparse_unet3d", {"max_epochs": 100_000})
    reply = requests.post(f"{server.url}/batch/infer/sparse_unet3d", json={}, timeout=PATIENCE)
    assert reply.json()["status"] == "RUNNING"
    process = psutil.Process(server.process.pid)
    assert len(server.jobs()) == 2
    wait_until(lambda: " Segmenting " in server.log.read_text(), server.process)
    server.wait_for_training(lambda stats, _: stats["epoch"] > 0)
    ended = threading.Event()

    def run() -> None:
        with contextlib.suppress(requests.ConnectionError):
            server.infer("large")
        ended.set()

    threading.Thread(target=run, daemon=True).start()
    segmenting = rf"\[{process.pid}\].* Segmenting "
    wait_until(lambda: re.search(segmenting, server.log.read_text()), server.process)
    begun = process.cpu_times().user
    # Well beyond reading the image.
    wait_until(lambda: process.cpu_times().user > begun + 5, server.process)
    assert not ended.is_set()
    children = process.children(recursive=True)
    number = signal.Signals[received]
    if received == "SIGINT":
        # A terminal sends it to all of them.
        for child in children:
            child.send_signal(number)
    server.process.send_signal(number)
    wait_until(lambda: server.process.poll() is not None)
    wait_until(ended.is_set)
    wait_until(lambda: not any(map(is_alive, children)))
    record = json.loads((studies / "models/training.json").read_text())
    assert (record["id"], record["status"]) == (task["id"], "STOPPED")
    checkpoint = torch.load(studies / "models/checkpoint.pt", weights_only=True)
    shown = json.loads((studies / "models/stats.json").read_text())
    # Every step was kept: of the epoch that was under way, too.
    assert (checkpoint["run"], checkpoint["epoch"]) == (shown["run"], shown["epoch"])
    assert 10 * checkpoint["epoch"] + checkpoint["begun"] == checkpoint["steps"]
    assert not list(studies.rglob(".writing-*"))

    # The next server shows how it ended, and goes on.
    server = start_server(studies, memory="0.5", width="2").wait()
    assert server.client.train_status()["status"] == "STOPPED"
    server.client.train_start("sparse_unet3d", {"max_epochs": 100_000})
    stats = server.wait_for_training(lambda stats, _: stats["epoch"] > checkpoint["epoch"])
    assert stats["run"] == checkpoint["run"]
    # Otherwise it would train during the next tests.
    server.stop()
