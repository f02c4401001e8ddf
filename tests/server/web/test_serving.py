"""How the server is reached: by which addresses, in how many processes, and by which of MONAI Label's forms."""

import socket
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from fastapi.testclient import TestClient

from serving import PATIENCE, Server


def test_an_address_that_the_computer_has_later(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a laptop that moves to another network."""
    ask = partial(client.get, "/auth/", headers={"host": "10.255.0.9:8000"})
    assert ask().status_code == 400
    address = SimpleNamespace(family=socket.AF_INET, address="10.255.0.9")
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"wlan0": [address]})
    assert ask().status_code == 200


def test_one_process_serves(studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "2")
    server = Server(studies, tmp_path)
    assert server.process.wait(timeout=PATIENCE) is not None
    assert "One process answers many requests at a time" in server.log.read_text()


def test_all_models_are_trained_as_monai_label_says(client: TestClient) -> None:
    assert "known: sparse_unet3d" in client.post("/train/", json={"x": {"max_epochs": 1}}).json()["detail"]
    reply = client.post("/train/", json={"sparse_unet3d": {"max_epochs": 1}})
    assert reply.json()["sparse_unet3d"]["result"]["status"] in ("SUBMITTED", "RUNNING")
    client.delete("/train/")
