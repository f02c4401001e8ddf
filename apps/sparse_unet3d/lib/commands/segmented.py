"""Finds segmentations, the names of their classes, and their images."""

import json
from dataclasses import dataclass
from pathlib import Path

from lib.core.errors import InputError
from lib.core.volumes.formats import split_ending
from lib.core.volumes.image_files import images_in, is_image
from lib.core.volumes.label_maps import is_map, maps_in
from lib.server.slicer.segments import PREDICTED
from lib.server.store.datastore import PREDICTION
from lib.server.store.stored_info import read_label_info


@dataclass(frozen=True)
class Segmented:
    """A segmentation to measure.

    Attributes:
        labels: the label map.
        classes: names of its classes; empty: their numbers are their names.
        image: the path of its image, if there is one.
    """

    labels: Path
    classes: tuple[str, ...]
    image: Path | None


def find_segmented(
    labels: Path, images: Path | None, classes: tuple[str, ...]
) -> tuple[dict[str, Segmented], list[str]]:
    """Find label maps, the names of their classes and their images.

    Args:
        labels: the folder of a project, whose predictions are meant; a folder of label maps; or a label map.
        images: a folder of the images, or an image; None: those of the project, if it is one.
        classes: names of the classes; empty: those that are stored beside each label map, if any.

    Returns:
        What was found, by name; and a sentence for each label map that can't be used.

    Raises:
        InputError: nothing was found.
    """
    if not labels.exists():
        raise InputError(f"{labels}: no such file or folder; give a project, a folder of label maps, or a label map")
    predictions = labels / "labels" / PREDICTION
    is_project = (labels / "labels").is_dir() and not is_map(labels)
    if is_project and not predictions.is_dir():
        raise InputError(f"{labels}: no volume of this project has a prediction; press Run in 3D Slicer first")
    if is_map(labels):
        found = {split_ending(labels.name)[0]: [labels]}
    else:
        found = maps_in(predictions if is_project else labels)
    if not found:
        raise InputError(f"{labels}: no label map in this folder")
    if images is None and is_project:
        images = labels
    known = _images(images) if images else {}
    segmented, faults = {}, []
    for name, paths in found.items():
        if len(paths) > 1:
            faults.append(f"{name}: {' and '.join(map(str, paths))} have the same name; keep one of them")
            continue
        image = next(iter(known.values())) if images and is_map(labels) and len(known) == 1 else known.get(name)
        if images and image is None:
            faults.append(f"{name}: no image of this name in {images}, so it is measured without intensities")
        segmented[name] = Segmented(paths[0], classes or _class_names(paths[0]), image)
    return segmented, faults


def _images(path: Path) -> dict[str, Path]:
    if not path.exists():
        raise InputError(f"--images {path}: no such file or folder")
    if path.is_dir() and not is_image(path):
        return {name: image.path for name, image in images_in(path).items()}
    return {split_ending(path.name)[0]: path}


def _class_names(labels: Path) -> tuple[str, ...]:
    """Return the names that the server, or ``segment``, has stored beside a label map; empty if there are none."""
    beside = labels.with_name(f"{split_ending(labels.name)[0]}.json")
    by_value = read_label_info(beside).get("label_names")
    if by_value:
        return tuple(name.removesuffix(PREDICTED) for name in sorted(by_value, key=by_value.__getitem__))
    try:
        voxels = json.loads(beside.read_text(encoding="utf-8"))["result"]["voxels"]
        # The first one is the background.
        return tuple(map(str, voxels))[1:]
    except (OSError, ValueError, LookupError, TypeError):
        return ()
