"""Work in several processes, some of which crash."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from lib.core.errors import InputError, Stopped
from lib.core.parallel import Crashed, Processes, each_in_processes
from project import APP
from serving import is_alive


def work(item: int) -> tuple[int, int]:
    """Return the square and the number of this process; crash with 3, fail with 4."""
    if item == 3:
        os._exit(9)
    if item == 4:
        raise InputError("four")
    return item * item, os.getpid()


def threads(_: int) -> int:
    return torch.get_num_threads()


def split(found: Iterator[tuple[int, object]]) -> tuple[dict[int, int], dict[int, Exception], set[int]]:
    """Return squares and exceptions by item, and the processes."""
    squares, errors, processes = {}, {}, set()
    for item, outcome in found:
        if isinstance(outcome, Exception):
            errors[item] = outcome
        else:
            assert isinstance(outcome, tuple)
            squares[item] = outcome[0]
            processes.add(outcome[1])
    return squares, errors, processes


@pytest.mark.slow
def test_a_crash_costs_one_item() -> None:
    squares, errors, processes = split(each_in_processes(work, range(9), 2))
    assert squares == {item: item**2 for item in range(9) if item not in (3, 4)}
    assert set(errors) == {3, 4}
    assert isinstance(errors[3], Crashed)
    assert isinstance(errors[4], InputError)
    assert str(errors[4]) == "four"
    assert os.getpid() not in processes


def test_one_worker_is_this_process() -> None:
    squares, errors, processes = split(each_in_processes(work, [1, 4, 2], 1))
    assert (squares, list(errors), processes) == ({1: 1, 2: 4}, [4], {os.getpid()})


@pytest.mark.slow
def test_workers_share_the_cores() -> None:
    found = dict(each_in_processes(threads, [1, 2], 2))
    assert set(found.values()) == {max(1, (os.cpu_count() or 1) // 2)}


def wait_for_long(_: int) -> None:
    time.sleep(600)


@pytest.mark.slow
def test_work_that_is_given_up_ends_its_processes() -> None:
    ours = psutil.Process()

    def raise_if_started() -> None:
        if len(ours.children(recursive=True)) >= 2:
            raise Stopped

    before = set(ours.children(recursive=True))
    with pytest.raises(Stopped):
        list(Processes(2, raise_if_stopping=raise_if_started).each(wait_for_long, [1, 2, 3]))
    # What Python itself needs to start processes may stay.
    left = [one for one in set(ours.children(recursive=True)) - before if "spawn_main" in " ".join(one.cmdline())]
    assert not left


PARENT = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from lib.core.parallel import each_in_processes
def work(item):
    open(item, "w").close()
    time.sleep(600)
if __name__ == "__main__":
    list(each_in_processes(work, ["one", "two"], 2))
"""


@pytest.mark.slow
def test_a_kill_of_the_first_process_ends_the_others(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    with subprocess.Popen([sys.executable, str(tmp_path / "parent.py"), str(APP)], cwd=tmp_path) as parent:
        while not all((tmp_path / name).exists() for name in ("one", "two")):
            time.sleep(0.1)
        others = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
    assert len(others) >= 2
    while any(map(is_alive, others)):
        time.sleep(0.1)
