"""Writes the page of a project into a file."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from lib.report.page import write_page
from lib.report.project_page import project_page
from lib.server.project.report import project_report
from lib.server.tasks.datastore import open_datastore

from .errors import saying_what_failed
from .progress import bars
from .settings import project_settings


def write_report(studies: Path, out: Path, conf: Sequence[str]) -> str:
    """Write the page of a project; return a sentence about it.

    Args:
        studies: the project's folder.
        out: the HTML file.
        conf: as of ``project_settings``.

    Raises:
        InputError: as ``project_settings``; or the file can't be written.
    """
    settings = project_settings(studies, conf)
    settings.use_voxel_sizes()
    store = open_datastore(settings)
    with bars(Console(stderr=True)) as progress:
        bar = progress.add_task("Looking at the volumes", total=1.0)
        found = project_report(settings, store, lambda fraction: progress.update(bar, completed=fraction))
    with saying_what_failed(out):
        write_page(out, project_page(found))
    return f"{out}: {len(found.volumes)} volumes, {len(found.held_out)} held-out slices"
