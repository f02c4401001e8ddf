"""HTML pages from jinja2 templates. A page is one file, which embeds its pictures."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from lib.core.files import replacing
from lib.core.labels import LabelScheme

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Shown:
    """A picture on a page.

    Args:
        file: the PNG or JPEG file.
        alternative: what it shows, for those who can't see it.
        caption: the line below it.
        width: in pixels on the screen; None: the picture's own width.
        height: in pixels on the screen; None: the picture's own height.
    """

    file: bytes
    alternative: str
    caption: str = ""
    width: float | None = None
    height: float | None = None


@dataclass(frozen=True)
class Cell:
    """A cell of a table: a text, and a small note below it."""

    text: str
    note: str = ""
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A table: the heading of each column, and rows with a cell for each column."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @classmethod
    def of_texts(cls, head: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
        """Make a table of cells without notes."""
        return cls(head, [[Cell(text) for text in row] for row in rows])


@dataclass(frozen=True)
class Legend:
    """The colours of the classes.

    Args:
        entries: name and colour, as ``#rrggbb``, of each class.
        background: name of the background class.
    """

    entries: Sequence[tuple[str, str]]
    background: str

    @classmethod
    def of(cls, scheme: LabelScheme, table: NDArray[np.uint8]) -> "Legend":
        """Name the colours of ``pictures.colours``."""
        entries = [(name, "#" + bytes(table[value]).hex()) for value, name in enumerate(scheme.classes, start=1)]
        return cls(entries, scheme.background)


def two_digits(value: float | None) -> str:
    """Write a score with two digits, a missing one as a dash."""
    return "–" if value is None else f"{value:.2f}"


def render(template: str, /, *folders: Path, **values: object) -> str:
    """Return a page.

    Args:
        template: file name of its template.
        folders: folders to search for templates before this package's own.
        values: the template's variables.

    Raises:
        jinja2.UndefinedError: the template uses a variable that wasn't given.
    """
    environment = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(data_url=_data_url, two_digits=two_digits)
    return environment.get_template(template).render(values)


def write_page(path: Path, html: str) -> None:
    """Write a page, renamed into place."""
    with replacing(path) as beside:
        beside.write_text(html, encoding="utf-8")


def _data_url(picture: bytes) -> str:
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
