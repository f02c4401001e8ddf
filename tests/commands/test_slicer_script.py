"""The command ``slicer-script`` as a person runs it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lib.commands.slicer_script import SCRIPT, write_slicer_script
from lib.core.errors import InputError
from project import APP


def test_the_printed_line_loads_what_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "it's here"
    folder.mkdir()
    (folder / SCRIPT.name).write_text("an earlier version")
    done = subprocess.run(
        [sys.executable, str(APP), "slicer-script"], cwd=folder, capture_output=True, text=True, check=True
    )
    (written,) = folder.iterdir()
    assert written.read_bytes() == SCRIPT.read_bytes()
    (line,) = re.findall(r"^ +(exec.*)$", done.stdout, re.MULTILINE)
    # Another program in its place, which runs outside Slicer, too.
    written.write_text("raise EOFError(sorted(globals()))")
    with pytest.raises(EOFError, match=re.escape("['__builtins__']")):
        exec(line)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/sparse_unet3d_shortcuts.py: it can't be written"):
        write_slicer_script(tmp_path / "file")
