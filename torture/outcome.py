"""What a row of the table found, its file in ``torture/results/``, and the table itself in ``docs/reliability.md``."""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.results import machine

from . import PROJECT

RESULTS = PROJECT / "torture" / "results"
PAGE = PROJECT / "docs" / "reliability.md"
BEGIN, END = "<!-- the table: written by python -m torture -->", "<!-- end of the table -->"


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: how the command line calls it.
        test: what is done.
        bar: what must hold.
    """

    name: str
    test: str
    bar: str


@dataclass
class Outcome:
    """What was measured.

    Attributes:
        measured: in a sentence for the table.
        facts: the figures.
        faults: each way in which the bar was missed; none if it was reached.
    """

    measured: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def keep(row: Row, outcome: Outcome, command: str, results: Path = RESULTS) -> None:
    """Write what was measured, with the command that repeats it, and say it."""
    entry = {**asdict(row), **asdict(outcome), "command": command, "date": time.strftime("%Y-%m-%d")}
    results.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**entry, "machine": machine("cpu")}, indent=1, ensure_ascii=False)
    (results / f"{row.name}.json").write_text(text + "\n", encoding="utf-8")
    print(f"{row.name}: {outcome.measured}; {len(outcome.faults)} faults", flush=True)
    for fault in outcome.faults[:20]:
        print(f"  {fault}", flush=True)


def table(rows: Sequence[Row], results: Path = RESULTS) -> str:
    """Return the table, in Markdown."""
    lines = ["| test | bar | measured | command |", "|---|---|---|---|"]
    for row in rows:
        path = results / f"{row.name}.json"
        measured, command = "not yet measured", f"python -m torture {row.name}"
        if path.exists():
            entry = json.loads(path.read_text(encoding="utf-8"))
            faults = f"**{len(entry['faults'])} faults**; " if entry["faults"] else ""
            measured, command = f"{faults}{entry['measured']} ({entry['date']})", entry["command"]
        lines.append(f"| {row.test} | {row.bar} | {measured} | `{command}` |")
    return "\n".join(lines)


def write_table(rows: Sequence[Row]) -> None:
    """Bring the table in the page up to date."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{after}", encoding="utf-8")


def announce(text: str) -> None:
    """Show progress."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)
