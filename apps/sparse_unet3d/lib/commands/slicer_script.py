"""Writes the script of shortcuts for 3D Slicer to where a person finds it."""

from pathlib import Path

from lib.core.errors import InputError
from lib.core.files import replacing

SCRIPT = Path(__file__).resolve().parents[2] / "in_slicer" / "sparse_unet3d_shortcuts.py"
"""The script; it runs in 3D Slicer, never here."""


def write_slicer_script(folder: Path) -> str:
    """Write the script into a folder, in place of an earlier one, and return how to load it.

    Raises:
        InputError: it can't be written there.
    """
    path = folder.absolute() / SCRIPT.name
    try:
        with replacing(path) as beside:
            beside.write_bytes(SCRIPT.read_bytes())
    except OSError as error:
        raise InputError(
            f"{path}: it can't be written ({error.strerror}); change to a folder that you may write to"
        ) from error
    return f"""Written: {path}

It is a single file to read, with shortcuts for painting in 3D Slicer. If Slicer runs on another computer, copy the file
there, and change the path in the next line.

  exec(open({str(path)!r}).read(), {{}})

Load it once: in 3D Slicer, open View > Python Console, and enter this line.
Load it for good: open Edit > Application Settings > General, open the file beside "Application startup script"
(.slicerrc.py), add this line to it, and restart 3D Slicer."""
