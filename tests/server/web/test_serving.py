"""How the server is reached: by which addresses, in how many processes, and by which of MONAI Label's forms."""

import multiprocessing
import os
import socket
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import psutil
import pytest
from fastapi.testclient import TestClient

from lib.core.errors import InputError
from lib.server.web.takeover import require_one_process
from serving import PATIENCE


def test_an_address_that_the_computer_has_later(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a laptop that moves to another network."""
    ask = partial(client.get, "/auth/", headers={"host": "10.255.0.9:8000"})
    assert ask().status_code == 400
    address = SimpleNamespace(family=socket.AF_INET, address="10.255.0.9")
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"wlan0": [address]})
    assert ask().status_code == 200


def test_one_process_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The web server's own parent would otherwise start another process in place of one that refuses."""
    require_one_process()
    parent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: parent)
    monkeypatch.setattr(os, "getppid", lambda: parent.pid)
    with pytest.raises(InputError, match="One process answers many requests at a time"):
        require_one_process()
    assert parent.wait(timeout=PATIENCE) != 0


def test_all_models_are_trained_as_monai_label_says(client: TestClient) -> None:
    assert "known: sparse_unet3d" in client.post("/train/", json={"x": {"max_epochs": 1}}).json()["detail"]
    reply = client.post("/train/", json={"sparse_unet3d": {"max_epochs": 1}})
    assert reply.json()["sparse_unet3d"]["result"]["status"] in ("SUBMITTED", "RUNNING")
    client.delete("/train/")
