"""``python -m benchmarks [PART ...]``: measure, write the results and their picture."""

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, NoReturn, Protocol, cast

import typer

from lib.commands.command_line import make_app, run
from lib.core.errors import InputError

from . import PROJECT, gpu, inference, large, many, paper, step, tiles, time_to_iou
from .bars import describe_bars
from .picture import draw_curves, draw_picture
from .results import Entry, MachineFacts, SpeedEntry, machine, merge_result, read_results, read_results_of
from .timing import Announce, BenchmarkOptions, SideError, select


class Part(Protocol):
    """A module that measures.

    ``KEYS``: what it can measure. ``measure(keys, chosen, announce)`` yields the key and the entry of each comparison,
    and raises ``SideError`` if a side fails.
    """

    @property
    def KEYS(self) -> tuple[str, ...]: ...

    def measure(
        self, keys: Sequence[str], chosen: BenchmarkOptions, announce: Announce
    ) -> Iterator[tuple[str, Entry]]: ...


PARTS: tuple[Part, ...] = (tiles, inference, step, time_to_iou, large, many, paper)
KEYS = [key for part in PARTS for key in part.KEYS]
GROUPS = list(dict.fromkeys(key.split(".")[0] for key in KEYS))
GPU = "gpu"
"""Typed instead of parts: measure what is missing on a GPU, see ``gpu``."""


class Device(str, Enum):
    """Device to compute on."""

    CPU, CUDA = "cpu", "cuda"


app = make_app("Time this software against the alternatives.")


@app.command(
    epilog="Keys: "
    + ", ".join(key for key in KEYS if not key.startswith("time_to_iou."))
    + ", time_to_iou.DATA.curve.LEARNER, time_to_iou.DATA.LEVEL.PEER."
)
def benchmark(
    parts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PART",
            help=f"What to measure: a group ({', '.join(GROUPS)}) or a key below. Default: everything. {GPU}: what is "
            "still missing on a GPU, here and in the experiments, in order.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[Device, typer.Option(help="Device to compute on.")] = Device.CPU,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Timed runs of each side. Default: each part's own.", show_default=False)
    ] = None,
    paper_tiles: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Time the paper's literal tiling on this many tiles, and scale. Default: all, which takes minutes.",
            show_default=False,
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help=f"Time limit of each learner's training (default: 8), of the paper's training, and of all that {GPU} "
            "does. The last two continue by the same command.",
            show_default=False,
        ),
    ] = None,
    slices: Annotated[
        int | None,
        typer.Option(min=1, help="Annotated slices along each axis, for time_to_iou. Default: 3.", show_default=False),
    ] = None,
    dense: Annotated[
        bool, typer.Option("--dense", help="Annotate everything instead, for time_to_iou; score the same voxels.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Don't repeat runs of time_to_iou that the results have by the same minutes and slices."
        ),
    ] = False,
    results: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="File to merge the results into; the pictures go into its folder.",
            show_default="benchmarks/results.json",
        ),
    ] = PROJECT / "benchmarks" / "results.json",
) -> None:
    """Time this software against the alternatives; write the results and their pictures."""
    if minutes is not None and not 0 < minutes < math.inf:
        raise InputError(f"--minutes: {minutes:g}; give more than 0")
    if dense and slices is not None:
        raise InputError("--slices: --dense annotates everything; leave one of them out")
    given = {
        "--device": device.value if device is not Device.CPU else None,
        "--repeats": repeats,
        "--paper-tiles": paper_tiles,
        "--minutes": None if minutes is None else f"{minutes:g}",
        "--slices": slices,
        "--dense": "" if dense else None,
    }
    if GPU in (parts or ()):
        _measure_on_gpu(parts or (), {**given, "--resume": resume or None}, results, minutes)
    repeated = " ".join(f"{name} {value}" for name, value in given.items() if value is not None)
    facts = machine(device.value)
    known = read_results_of(results, facts) if resume else {}
    chosen = BenchmarkOptions(device.value, repeats, paper_tiles, minutes, slices, dense, known, repeated)
    wanted = select(KEYS, parts or ())
    results.parent.mkdir(parents=True, exist_ok=True)
    failed = _measure(wanted, chosen, facts, results)
    entries = read_results(results)
    if set(wanted) & set(time_to_iou.KEYS):
        for line in describe_bars(entries, device.value):
            print(line)
    if entries:
        draw_picture(entries, results.with_suffix(".png"))
        draw_curves(entries, results.with_name("time_to_iou.png"))
    if failed:
        raise typer.Exit(1)


def _measure_on_gpu(
    parts: Sequence[str], given: Mapping[str, object], results: Path, minutes: float | None
) -> NoReturn:
    """Measure what is missing on a GPU, and exit.

    Raises:
        InputError: other parts or options were given that don't go with it.
    """
    others = [part for part in parts if part != GPU]
    others += [name for name, value in given.items() if value is not None and name != "--minutes"]
    if others:
        raise InputError(f"{others[0]}: {GPU} takes --minutes and --results only; leave it out")
    raise typer.Exit(gpu.measure_all(results.resolve(), minutes))


def _measure(wanted: Sequence[str], chosen: BenchmarkOptions, facts: MachineFacts, results: Path) -> bool:
    """Measure, and write each entry as soon as it is measured; return whether a side failed."""
    line, failed = _StatusLine(), False
    for part in PARTS:
        keys = [key for key in part.KEYS if key in wanted]
        if not keys:
            continue
        try:
            for key, entry in part.measure(keys, chosen, line):
                merge_result(results, chosen.device, facts, key, entry)
                line.clear()
                print(f"{key}: {_describe(entry)}", flush=True)
        except SideError as error:
            line.clear()
            print(error, file=sys.stderr)
            failed = True
    return failed


class _StatusLine:
    """Shows progress: on a terminal in one line that changes, elsewhere line by line."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._on_terminal = sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        line = f"[{time.monotonic() - self._start:6.0f} s] {text}"
        print(f"\r{line:<110}" if self._on_terminal else line, end="" if self._on_terminal else "\n", file=sys.stderr)
        sys.stderr.flush()

    def clear(self) -> None:
        """Clear the line, before a permanent one is printed."""
        if self._on_terminal:
            print(f"\r{'':<110}\r", end="", file=sys.stderr, flush=True)


def _describe(entry: Entry) -> str:
    if entry.get("ratio") is None:
        return entry["note"]
    speed = cast(SpeedEntry, entry)
    unit, (low, high) = speed.get("unit", "s"), speed["spread"]
    text = (
        f"ours {speed['ours']:.3g} {unit}, theirs {speed['theirs']:.3g} {unit} ({speed['theirs_is']}): "
        f"{speed['ratio']:.2f} times as fast ({low:.2f} to {high:.2f})"
    )
    return text if speed["bar"] is None else f"{text}, target {speed['bar']:g}"


if __name__ == "__main__":
    sys.exit(run(app, "python -m benchmarks"))
