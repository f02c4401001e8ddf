"""Ctrl-C and SIGTERM end the server, also during Run and training."""

import contextlib
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import requests

from lib.core.labels import LabelScheme
from serving import NAMED, Server, paint, publish, wait_until, write_image, write_label


@pytest.mark.slow
@pytest.mark.parametrize("received", [signal.SIGINT, signal.SIGTERM])
def test_a_running_segmentation_and_training_end_with_the_server(
    received: signal.Signals, tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    write_image(studies / "small.nii.gz")
    # Segmenting this takes many minutes: if the signal waited for it, the test would hang.
    write_image(studies / "large.nii.gz", (400, 400, 120))
    publish(studies / "models", LabelScheme(("inside", "tubule"), "outside"), width=32)
    server = start_server(studies, memory="0.5").wait()
    label = write_label(tmp_path / "label.nii.gz", paint())
    server.put_label("small", label, NAMED).raise_for_status()
    server.client.train_start("sparse_unet3d", {"max_epochs": 100_000})
    process = psutil.Process(server.process.pid)
    wait_until(process.children)
    training = process.children()
    ended = threading.Event()

    def run() -> None:
        with contextlib.suppress(requests.ConnectionError):
            server.infer("large")
        ended.set()

    threading.Thread(target=run, daemon=True).start()
    wait_until(lambda: "Segmenting" in server.log.read_text(), server.process)
    begun = process.cpu_times().user
    # By then the server has read the image and is segmenting it.
    wait_until(lambda: process.cpu_times().user > begun + 5, server.process)
    assert not ended.is_set()
    server.process.send_signal(received)
    wait_until(lambda: server.process.poll() is not None)
    wait_until(ended.is_set)
    wait_until(lambda: not any(process.is_running() for process in training))
