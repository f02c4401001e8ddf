"""Checks a project, and moves it to another computer, with or without a running server."""

from pathlib import Path

from lib.core.errors import InputError
from lib.server.store.annotations import AnnotationReader
from lib.server.store.checking import check
from lib.server.store.project_archive import Moved, export_project, import_project

from .errors import saying_what_failed


def check_text(studies: Path) -> tuple[str, bool]:
    """Check a project; return what was found, and whether nothing is damaged or gone.

    Raises:
        InputError: there is no such folder.
    """
    found = check(_open(studies))
    lines = [*found.faults, *(f"Note: {note}" for note in found.notes)]
    lines.append(f"images: {found.images}, labels as they were stored: {found.labels}, faults: {len(found.faults)}")
    return "\n".join(lines), not found.faults


def export(studies: Path, models: Path, file: Path) -> str:
    """Write a project into a ZIP file; see ``export_project``."""
    with saying_what_failed(file):
        return f"{file}: {_describe(export_project(_open(studies), models, file))}"


def unpack(file: Path, studies: Path) -> str:
    """Unpack a project; see ``import_project``."""
    with saying_what_failed(studies):
        return f"{studies}: {_describe(import_project(file, studies))}; each file is as it was exported"


def _open(studies: Path) -> AnnotationReader:
    if not studies.is_dir():
        raise InputError(f"--studies {studies}: there is no such folder; give the folder that the server serves")
    return AnnotationReader(str(studies))


def _describe(moved: Moved) -> str:
    return f"images: {moved.images}, files in all: {moved.files}, MB: {moved.size / 1e6:.1f}"
