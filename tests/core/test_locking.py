import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lib.core.locking import Locked, OwnedLock
from project import APP
from serving import wait_until

HOLD = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from lib.core.locking import OwnedLock
with OwnedLock(Path(sys.argv[2]), "the box").hold():
    print("held", flush=True)
    time.sleep(600)
"""


def holder(path: Path) -> "subprocess.Popen[str]":
    """Start a process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, APP, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_another_process_is_named_and_a_dead_one_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    lock = OwnedLock(path, "the box")
    process = holder(path)
    began = time.monotonic()
    since = r"on \S+, since \d{4}-\d\d-\d\d .* UTC .*0\.3 s"
    words = rf"the box: process {process.pid} {since}.*remove {re.escape(str(path))}"
    with pytest.raises(Locked, match=words), lock.hold(patience=0.3):
        pass
    assert time.monotonic() - began >= 0.3
    process.send_signal(signal.SIGKILL)
    process.wait()
    with lock.hold(patience=60):
        pass
    # What it left to say that it holds the lock is gone, too.
    assert [entry.name for entry in tmp_path.iterdir()] == [".lock"]


def test_a_note_of_a_dead_process_is_not_believed(tmp_path: Path) -> None:
    """The holder may have been unable to write its own, as on a full disk."""
    path = tmp_path / ".lock"
    process = holder(path)
    note = (tmp_path / ".lock-owner").read_text()
    process.kill()
    process.wait()
    process = holder(path)
    (tmp_path / ".lock-owner").write_text(note)
    with pytest.raises(Locked, match="the box: another process"), OwnedLock(path, "the box").hold(patience=0.1):
        pass
    process.kill()
    process.wait()


def test_another_thread_waits_and_the_same_one_does_not(tmp_path: Path) -> None:
    lock = OwnedLock(tmp_path / ".lock", "the box")
    refused, taken = threading.Event(), threading.Event()

    def other() -> None:
        try:
            with lock.hold(patience=0.1):
                pass
        except Locked:
            refused.set()
        with lock.hold():
            taken.set()

    thread = threading.Thread(target=other)
    with lock.hold(), lock.hold():
        thread.start()
        wait_until(refused.is_set)
        assert (tmp_path / ".lock-owner").exists()
        assert not taken.is_set()
    thread.join()
    assert taken.is_set()


def test_the_lock_is_free_after_an_exception(tmp_path: Path) -> None:
    lock = OwnedLock(tmp_path / ".lock", "the box")
    with pytest.raises(ZeroDivisionError), lock.hold():
        1 / 0  # noqa: B018
    with OwnedLock(tmp_path / ".lock", "the box").hold(patience=0.1):
        pass
