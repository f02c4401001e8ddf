"""Label maps that people give by name: one, or a folder of them."""

from pathlib import Path

from lib.core.errors import InputError

from .formats import split_ending
from .image_files import is_listed
from .reading import read_label_map
from .slicer_segmentation import is_slicer_segmentation
from .volume import LabelMap


def is_map(path: Path) -> bool:
    """Tell a label map, which may be a folder of a known ending, from a folder of label maps."""
    return path.is_file() or bool(split_ending(path.name)[1])


def maps_in(folder: Path) -> dict[str, list[Path]]:
    """Return the label maps in a folder by their names without endings; names may have several files."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if is_listed(path.name):
            found.setdefault(split_ending(path.name)[0], []).append(path)
    return found


def read_exported(path: Path) -> LabelMap:
    """Read a label map in which each value stands for a class.

    Raises:
        InputError: as ``read_label_map``; a segmentation of 3D Slicer.
    """
    if is_slicer_segmentation(path):
        raise InputError(
            f"{path}: a segmentation of 3D Slicer, whose numbers depend on its segments; export it as a label map"
        )
    return read_label_map(path)
