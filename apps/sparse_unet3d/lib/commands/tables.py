"""Prints tables."""

from rich.console import Console
from rich.table import Table

WIDEST = 1000
"""Characters of a line that goes into a file or to another program, where no line needs to be broken."""


def print_table(table: Table) -> None:
    """Print a table to standard output, as wide as the terminal or, into a file, as wide as it needs to be."""
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = WIDEST
    console.print(table)
