"""Compares sides: alternating runs, each side in its own process, medians and spread."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from lib.core.errors import InputError

from . import PROJECT
from .results import Entry, SpeedEntry

Announce = Callable[[str], None]
"""Called with a text about the current work."""


@dataclass(frozen=True)
class BenchmarkOptions:
    """The options of the command line, for all parts.

    Attributes:
        device: ``cpu`` or ``cuda``.
        repeats: number of timed runs of each side; None: the part's default.
        paper_tiles: number of tiles on which the paper's literal tiling is timed; None: all.
        minutes: training time of each learner; None: the part's default.
        slices: annotated slices along each axis that learners learn from; None: the part's default.
        dense: whether learners learn from dense annotation instead.
        known: results to go on with: runs that they have aren't repeated.
        options: the options as typed, to repeat the results.
    """

    device: str = "cpu"
    repeats: int | None = None
    paper_tiles: int | None = None
    minutes: float | None = None
    slices: int | None = None
    dense: bool = False
    known: Mapping[str, Entry] = field(default_factory=dict)
    options: str = ""

    def command(self, key: str) -> str:
        """Return the command that measures this key alone."""
        return " ".join(f"python -m benchmarks {key} {self.options}".split())


@dataclass(frozen=True)
class Side:
    """A side of a comparison.

    Attributes:
        entry: ``module:function``, see ``benchmarks.side``.
        options: the function's arguments, as JSON values.
        threads: number of processor threads that it may use.
    """

    entry: str
    options: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 2


@dataclass
class Timings:
    """The measurements of a side.

    Attributes:
        seconds: duration of each run. If a run does only a part of the work, its fact ``done`` is that part, 0 … 1, and
            its time is divided by it.
        peak_bytes: peak memory of the process.
        facts: facts that the last run returned, as JSON values.
    """

    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Median duration of the runs in seconds."""
        return statistics.median(self.seconds)


class SideError(Exception):
    """A side failed; the message ends with its last output."""


class _Process:
    """The process of a side."""

    def __init__(self, name: str, side: Side) -> None:
        self.name = name
        threads = str(side.threads)
        # OpenMP, Intel's library and ITK, which TorchIO uses, read these.
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), threads)
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by ``close``)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.side"],
            cwd=PROJECT,
            env={**os.environ, **limits},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        try:
            request = {"entry": side.entry, "options": dict(side.options), "threads": side.threads}
            self._ask(json.dumps(request), lambda _: None)
        except BaseException:
            self.close()
            raise

    def run(self, announce: Announce) -> dict[str, Any]:
        """Do a run; return the answer."""
        return self._ask("run", announce)

    def _ask(self, line: str, announce: Announce) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # The process has ended; the loop below finds no answer and raises the error.
        for answer in self._process.stdout:
            values: dict[str, Any] = json.loads(answer)
            if "progress" not in values:
                return values
            announce(f"{self.name}: {100 * values['progress']:.0f} %")
        self._process.wait()
        self._log.seek(0)
        written = "".join(self._log.readlines()[-20:])
        raise SideError(f"{self.name} ended with code {self._process.returncode}\n{written}")

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def measure(sides: Mapping[str, Side], repeats: int, warm_up: bool, announce: Announce) -> dict[str, Timings]:
    """Run all sides in turns, so that other load on the machine affects them equally.

    Args:
        sides: the sides by name.
        repeats: number of timed runs of each.
        warm_up: do one untimed run of each first.
        announce: shows progress.

    Raises:
        SideError: a side failed.
    """
    processes: dict[str, _Process] = {}
    results = {name: Timings() for name in sides}
    try:
        for name, side in sides.items():
            announce(f"{name}: starting")
            processes[name] = _Process(name, side)
        for turn in range(-1 if warm_up else 0, repeats):
            # Back and forth, so that no side always runs after the same other one.
            order = list(sides) if turn % 2 == 0 else list(sides)[::-1]
            for name in order:
                which = f"run {turn + 1} of {repeats}" if turn >= 0 else "warming up"
                announce(f"{name}: {which}")
                answer = processes[name].run(partial(_report_run, announce, which))
                results[name].peak_bytes = answer["peak_bytes"]
                results[name].facts = answer["facts"]
                if turn >= 0:
                    results[name].seconds.append(answer["seconds"] / answer["facts"].get("done", 1))
    finally:
        for process in processes.values():
            process.close()
    return results


def _report_run(announce: Announce, which: str, text: str) -> None:
    announce(f"{text} of {which}")


def compare(ours: Timings, theirs: Mapping[str, Timings], bar: float, command: str, note: str) -> SpeedEntry:
    """Make the entry of a comparison.

    Args:
        ours: our runs.
        theirs: the runs of each way of using the other software; the fastest counts.
        bar: the target for the ratio.
        command: the command that repeats the comparison.
        note: what was compared, in words.
    """
    fastest = min(theirs, key=lambda name: theirs[name].median)
    peer = theirs[fastest]
    pairs = [other / own for own, other in zip(ours.seconds, peer.seconds, strict=True)]
    return {
        "ours": ours.median,
        "theirs": peer.median,
        "theirs_is": fastest,
        "ratio": peer.median / ours.median,
        "spread": [min(pairs), max(pairs)],
        "bar": bar,
        "runs": {"ours": ours.seconds, **{name: runs.seconds for name, runs in theirs.items()}},
        "peak_gb": {"ours": gigabytes(ours), **{name: gigabytes(runs) for name, runs in theirs.items()}},
        "note": note,
        "command": command,
    }


def gigabytes(runs: Timings) -> float:
    """Return the peak memory in GB: the GPU's if the side used one."""
    return float(runs.facts.get("peak_bytes_on_gpu", runs.peak_bytes)) / 1e9


def select(keys: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Return the keys that a list of keys and groups names; all keys if the list is empty.

    Raises:
        InputError: a name stands for no key.
    """
    for name in wanted:
        if not any(_is_part(key, name) for key in keys):
            raise InputError(f"{name}: there is no such part; there are {', '.join(keys)}")
    return [key for key in keys if not wanted or any(_is_part(key, name) for name in wanted)]


def _is_part(key: str, name: str) -> bool:
    return key == name or key.startswith(name + ".")
