"""Prints tables, and writes them as CSV."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lib.core.files import replacing

WIDEST = 1000
"""Characters of a line that goes into a file or to another program, where no line needs to be broken."""


def print_table(table: Table) -> None:
    """Print a table to standard output, as wide as the terminal or, into a file, as wide as it needs to be."""
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = WIDEST
    console.print(table)


def write_csv(path: Path, headings: Mapping[str, str] | Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write a table as CSV, in UTF-8 and full precision; None becomes an empty cell.

    Args:
        path: the file.
        headings: of the columns, in their order: by the keys of the rows, or the keys themselves.
        rows: the cells of each row by key.

    Raises:
        OSError: it can't be written.
    """
    with replacing(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(headings.values() if isinstance(headings, Mapping) else headings)
        writer.writerows([row[key] for key in headings] for row in rows)
