"""The short form of ``python -m torture power``, and that its disk loses what a real one may lose."""

import random
import shutil
from pathlib import Path

import pytest

from torture.disk import Disk, State
from torture.power import measure


def states_of(disk: Disk) -> list[State]:
    """Many states, each once."""
    found = list(disk.states(random.Random(0), 200))
    return [state for number, state in enumerate(found) if state not in found[:number]]


def written() -> Disk:
    """A file that was written beside its place, and renamed over another one."""
    disk = Disk({"labels": None, "labels/a": b"old"})
    number = disk.create("labels/new")
    disk.write(number, 0, b"both halves")
    disk.rename("labels/new", "labels/a")
    return disk


def test_nothing_is_sure_until_it_is_synced() -> None:
    contents = {state["labels/a"] for state in states_of(written())}
    assert contents == {b"old", b"", b"both ", b"both halves"}


def test_a_synced_file_whose_name_is_not_synced_may_have_none() -> None:
    disk = Disk({"labels": None})
    number = disk.create("labels/a")
    disk.write(number, 0, b"new")
    disk.sync(number)
    assert [state.get("labels/a") for state in states_of(disk)] == [b"new", None]


def test_the_sync_of_a_folder_does_not_sync_files() -> None:
    disk = written()
    disk.sync_folder("labels")
    assert {state["labels/a"] for state in states_of(disk)} == {b"", b"both ", b"both halves"}


def test_what_is_synced_stays() -> None:
    disk = Disk({"labels": None, "labels/a": b"old"})
    number = disk.create("labels/new")
    disk.write(number, 0, b"new")
    disk.sync(number)
    disk.rename("labels/new", "labels/a")
    disk.sync_folder("labels")
    assert states_of(disk) == [{"labels": None, "labels/a": b"new"}]


def test_files_of_a_folder_that_is_lost_are_lost() -> None:
    disk = Disk({})
    disk.make_folder("models")
    number = disk.create("models/a")
    disk.sync(number)
    disk.sync_folder("models")
    assert {} in states_of(disk)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_at_some_points_every_acknowledged_version_is_there(tmp_path: Path) -> None:
    outcome = measure(tmp_path, samples=1, every=12)
    assert not outcome.faults
    assert outcome.facts["versions"] == 7
    assert outcome.facts["states"] > 50
