"""Pages from templates: escaping, missing values, and where templates are found."""

import base64
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from lib.report.page import Cell, Legend, Shown, Table, render
from lib.report.pictures import file_of
from project import APP

PAGE = """{% extends "page.html.j2" %}{% import "parts.html.j2" as parts %}
{% block title %}{{ title }}{% endblock %}
{% block body %}
{{ parts.table(table) }}{{ parts.legend(legend) }}{{ parts.figure(shown) }}
{% endblock %}"""

HOSTILE = """<b title="a" id='b'>&"""
ESCAPED = "&lt;b title=&#34;a&#34; id=&#39;b&#39;&gt;&amp;"


def test_every_text_is_escaped(tmp_path: Path) -> None:
    (tmp_path / "own.html.j2").write_text(PAGE)
    html = render(
        "own.html.j2",
        tmp_path,
        title=HOSTILE,
        table=Table([HOSTILE], [[Cell(HOSTILE, HOSTILE)]]),
        legend=Legend([(HOSTILE, "#102030")], HOSTILE),
        shown=Shown(b"png", HOSTILE, HOSTILE),
    )
    assert HOSTILE not in html
    # The title; heading, cell and note; class and background; alternative text and caption.
    assert html.count(ESCAPED) == 8


def test_a_value_that_a_template_misses_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "own.html.j2").write_text(PAGE)
    with pytest.raises(UndefinedError):
        render("own.html.j2", tmp_path, title="")


def test_templates_are_found_where_the_app_folder_was_copied_to(tmp_path: Path) -> None:
    """The process starts elsewhere and has nothing of this project but the copy."""
    shutil.copytree(APP / "lib", tmp_path / "app" / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    program = """import sys
sys.path.insert(0, "app")
from jinja2 import UndefinedError
from PIL import Image
from lib.report import page
assert page.__file__.startswith(sys.argv[1]), page.__file__
try:
    page.render("demo.html.j2")
except UndefinedError:
    print("it asks for its values")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "it asks for its values"


@pytest.mark.parametrize(("side", "kind"), [(150, "png"), (151, "jpeg")])
def test_large_pictures_are_jpeg_files(side: int, kind: str, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (side, side, 3)).astype(np.uint8)
    (tmp_path / "own.html.j2").write_text(PAGE)
    shown = Shown(file_of(picture), "a picture")
    html = render("own.html.j2", tmp_path, title="", table=Table([], []), legend=Legend([], ""), shown=shown)
    (content,) = re.findall(rf'src="data:image/{kind};base64,([^"]+)"', html)
    read = Image.open(io.BytesIO(base64.b64decode(content)))
    assert (read.format, read.size) == (kind.upper(), (side, side))
    # Noise is the hardest picture for JPEG.
    assert np.abs(np.asarray(read).astype(int) - picture).mean() < (1 if kind == "png" else 15)
