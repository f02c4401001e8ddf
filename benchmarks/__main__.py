"""``python -m benchmarks [PART ...]``: measure, write the results and their picture."""

import argparse
import math
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from . import PROJECT, inference, large, step, tiles, time_to_iou
from .picture import draw_curves, draw_picture
from .results import machine, merge_result, read_results
from .timing import Settings, SideError, select

PARTS: tuple[ModuleType, ...] = (tiles, inference, step, time_to_iou, large)
"""Each has ``KEYS``, what it can measure, and ``measure(keys, settings, report)``, which yields keys and entries."""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    result = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    keys = ", ".join(key for part in PARTS for key in part.KEYS)
    result.add_argument("parts", nargs="*", metavar="PART", help=f"what to measure (default: all): {keys}; or a group")
    result.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    result.add_argument("--repeats", type=_positive, metavar="N", help="timed runs of each side")
    result.add_argument(
        "--paper-tiles",
        type=_positive,
        metavar="N",
        help="time the paper's literal tiling on N tiles and scale (default: on all, which takes minutes)",
    )
    result.add_argument("--minutes", type=_minutes, metavar="M", help="how long each learner may learn (default: 8)")
    result.add_argument(
        "--results",
        type=Path,
        default=PROJECT / "benchmarks" / "results.json",
        metavar="FILE",
        help="where results are merged in; the pictures go beside it (default: benchmarks/results.json)",
    )
    return result


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}; give at least 1")
    return value


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{value}; give more than 0")
    return value


def _settings(arguments: argparse.Namespace) -> Settings:
    given = {"--device": arguments.device if arguments.device != "cpu" else None}
    given |= {"--repeats": arguments.repeats, "--paper-tiles": arguments.paper_tiles, "--minutes": arguments.minutes}
    options = " ".join(
        f"{name} {value:g}" if name == "--minutes" else f"{name} {value}"
        for name, value in given.items()
        if value is not None
    )
    return Settings(arguments.device, arguments.repeats, arguments.paper_tiles, arguments.minutes, options)


class _Progress:
    """Shows what is going on: on a terminal on one line that changes, elsewhere line by line."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._on_terminal = sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        line = f"[{time.monotonic() - self._start:6.0f} s] {text}"
        print(f"\r{line:<110}" if self._on_terminal else line, end="" if self._on_terminal else "\n", file=sys.stderr)
        sys.stderr.flush()

    def clear(self) -> None:
        """Make room for a line that stays."""
        if self._on_terminal:
            print(f"\r{'':<110}\r", end="", file=sys.stderr, flush=True)


def main() -> int:
    """Measure; return the exit code: 0 done, 1 a side failed, 2 there is no such part, 130 interrupted."""
    arguments = parser().parse_args()
    settings = _settings(arguments)
    try:
        wanted = select([key for part in PARTS for key in part.KEYS], arguments.parts)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    facts, progress, failed = machine(settings.device), _Progress(), False
    for part in PARTS:
        keys = [key for key in part.KEYS if key in wanted]
        if not keys:
            continue
        try:
            for key, entry in part.measure(keys, settings, progress):
                merge_result(arguments.results, settings.device, facts, key, entry)
                progress.clear()
                print(f"{key}: {_describe(entry)}", flush=True)
        except SideError as error:
            progress.clear()
            print(error, file=sys.stderr)
            failed = True
        except KeyboardInterrupt:
            print("\nInterrupted; what was measured is kept.", file=sys.stderr)
            return 130
    results = read_results(arguments.results)
    if results:
        draw_picture(results, arguments.results.with_suffix(".png"))
        draw_curves(results, arguments.results.with_name("time_to_iou.png"))
    return int(failed)


def _describe(entry: dict[str, Any]) -> str:
    if entry.get("ratio") is None:
        return str(entry["note"])
    text = (
        "ours {ours:.3g} {unit}, theirs {theirs:.3g} {unit} ({theirs_is}): {ratio:.2f} times as fast "
        "({spread[0]:.2f} to {spread[1]:.2f})".format(**{"unit": "s", **entry})
    )
    return text if entry["bar"] is None else f"{text}, asked for {entry['bar']:g}"


if __name__ == "__main__":
    sys.exit(main())
