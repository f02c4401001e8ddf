"""``python -m torture [ROW] [OPTIONS]``: measure a row of the table in ``docs/reliability.md``, or all of them."""

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from lib.commands.command_line import make_app, run

from . import bad_requests, bombing, crowd, kills, limits, power, soak
from .outcome import Outcome, Row, announce, keep, write_table

ROWS: tuple[Row, ...] = (kills.ROW, power.ROW, crowd.ROW, limits.ROW, bad_requests.ROW, bombing.ROW, soak.ROW)

app = make_app("Treat the server and its store badly, and check that nothing is lost: docs/reliability.md.")

Seed = Annotated[int, typer.Option(help="Of all random choices.")]


@app.command("kills")
def kill(
    count: Annotated[int, typer.Option(min=1, help="All kills.")] = 500,
    on_server: Annotated[int, typer.Option(min=0, help="Those of the real server.")] = 40,
    seed: Seed = 0,
) -> None:
    """kill -9 of the server and of a process that stores, at random moments."""
    options = f"--count {count} --on-server {on_server} --seed {seed}"
    _measure(kills.ROW, options, lambda folder: kills.measure(folder, count, on_server, seed))


@app.command("power")
def cut_power(
    samples: Annotated[int, typer.Option(min=0, help="Random states at each point, of each rule.")] = 3,
    seed: Seed = 0,
) -> None:
    """Replay what was written to each point, and lose or reorder what wasn't synced."""
    _measure(power.ROW, f"--samples {samples} --seed {seed}", lambda folder: power.measure(folder, samples, 1, seed))


@app.command("crowd")
def let_crowd_submit(
    clients: Annotated[int, typer.Option(min=1, help="Who submit at once.")] = 20,
    submissions: Annotated[int, typer.Option(min=1, help="Of all together.")] = 1000,
    seed: Seed = 0,
) -> None:
    """Many clients submit at once while a training and segmentations run."""
    options = f"--clients {clients} --submissions {submissions} --seed {seed}"
    _measure(crowd.ROW, options, lambda folder: crowd.measure(folder, clients, submissions, seed=seed))


@app.command("limits")
def set_limits(levels: Annotated[int, typer.Option(min=2, help="Fill levels.")] = 50, seed: Seed = 0) -> None:
    """A full disk, a read-only folder, few descriptors, little memory. Needs Linux, and to mount file systems."""
    _measure(limits.ROW, f"--levels {levels} --seed {seed}", lambda folder: limits.measure(folder, levels, seed))


@app.command("requests")
def send_bad_requests(
    generated: Annotated[int, typer.Option(min=0, help="Requests made by chance, besides those by hand.")] = 5000,
    seed: Seed = 0,
) -> None:
    """Send requests that nobody should send."""
    options = f"--generated {generated} --seed {seed}"
    _measure(bad_requests.ROW, options, lambda folder: bad_requests.measure(folder, generated, seed))


@app.command("bombs")
def send_bombs() -> None:
    """Send files and bodies that crash, hang or fill careless servers."""
    _measure(bombing.ROW, "", bombing.measure)


@app.command("soak")
def use_for_long(
    seconds: Annotated[float, typer.Option(min=1, help="How long.")] = 3600,
    seed: Seed = 0,
) -> None:
    """Use a server for an hour, and watch its memory, descriptors and temporary files."""
    _measure(soak.ROW, f"--seconds {seconds:g} --seed {seed}", lambda folder: soak.measure(folder, seconds, seed=seed))


@app.command("all")
def everything() -> None:
    """Every row with its full numbers: hours."""
    failed = False
    for row in ROWS:
        command = next(command for command in app.registered_commands if command.name == row.name)
        assert command.callback
        try:
            command.callback()
        except typer.Exit:
            failed = True
    if failed:
        raise typer.Exit(1)


@app.command("table")
def bring_table_up_to_date() -> None:
    """Write the table in docs/reliability.md from what was measured."""
    write_table(ROWS)


def _measure(row: Row, options: str, measure: Callable[[Path], Outcome]) -> None:
    """Measure a row in a folder of its own, and keep what was found.

    Raises:
        typer.Exit: the bar was missed.
    """
    announce(f"{row.name} {options}")
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    try:
        outcome = measure(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    keep(row, outcome, f"python -m torture {row.name} {options}".strip())
    write_table(ROWS)
    if outcome.faults:
        raise typer.Exit(1)


if __name__ == "__main__":
    sys.exit(run(app, "python -m torture"))
