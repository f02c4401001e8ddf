"""Exports a trained model for other software."""

import sys
from pathlib import Path

from lib.core.errors import InputError
from lib.core.export.package import Package
from lib.core.volumes.reading import read_volume

from .errors import saying_what_failed
from .segment import model_file


def export_and_report(
    model: Path, kind: str, out: Path, statistics_of: Path | None, licence: str, provenance: bool
) -> None:
    """Export a model, and say what its labels equal.

    Args:
        model: a model file, or the folder of a project or of its models.
        kind: the format, one of ``WRITERS``.
        out: a new folder.
        statistics_of: the image whose statistics to freeze; None for the averages over training tiles.
        licence: of the model; empty if none is stated.
        provenance: whether to tell which versions of annotations went into it, and by whom.

    Raises:
        InputError: the model or the image can't be used, or the folder exists or can't be written.
    """
    file = model_file(model)
    try:
        volume = read_volume(statistics_of) if statistics_of else None
        package = Package.of(file, volume, licence, provenance)
    except OSError as error:
        raise InputError(
            f"{error.filename or file}: cannot be read ({error.strerror or error}); it is damaged, or the disk is"
        ) from error
    with saying_what_failed(out):
        package.write(out, kind)
    print(f"{out}: {package.frozen.statistics}", file=sys.stdout if package.frozen.equals_run else sys.stderr)
