"""Finds out about a model file or a studies folder, without changing anything and without reading voxels."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lib.core.errors import InputError
from lib.core.model.folder import ModelFolder
from lib.core.model.model import Model
from lib.core.plan.paper import differences
from lib.core.volumes.formats import FORMATS, file_of, split_ending
from lib.core.volumes.grids import check_on_grid
from lib.core.volumes.image_files import ImageFiles, images_in, is_label_file
from lib.core.volumes.reading import open_image, read_geometry
from lib.core.volumes.source import VolumeSource
from lib.server.store.annotations import FINAL, VERSION
from lib.server.store.datastore import PREDICTION
from lib.server.store.stored_info import read_label_info
from lib.server.store.studies import describe_unused

_NUMBERED = re.compile(rf"{VERSION}([1-9][0-9]*)")


def describe_model(path: Path) -> dict[str, Any]:
    """Return what is known of a model, as JSON values.

    Raises:
        InputError: the file can't be read.
    """
    model = Model.load(path)
    plan, split = model.plan, model.split
    blocks = [block for held in split.blocks.values() for block in held]
    return {
        "file": str(path),
        "size_bytes": path.stat().st_size,
        "classes": plan.scheme.foreground,
        "background": plan.scheme.background,
        "channels": plan.channels,
        "network": plan.network,
        "parameters": sum(of.numel() for of in model.network.parameters()),
        "width": plan.width,
        "spacing_mm": plan.spacing,
        "tile_voxels": plan.tile,
        "statistics": plan.statistics,
        "loss": plan.loss,
        "recipe": plan.recipe,
        "metric": model.metric,
        "score": model.score,
        "run": model.run,
        "epoch": model.epoch,
        "images": len({*split.training, *split.validation, *split.blocks}),
        "training_slices": sum(map(len, split.training.values())),
        "held_out_slices": sum(map(len, split.validation.values())) + sum(b.last - b.first + 1 for b in blocks),
        "differs_from_paper": differences(plan),
    }


def describe_folder(studies: Path, models: Path) -> dict[str, Any]:
    """Return what a studies folder holds, as JSON values: images, annotations, predictions, the model, and faults.

    Args:
        studies: the folder, of which only headers and label info are read.
        models: the folder of its models.

    Raises:
        InputError: the folder can't be read, or has neither images nor labels.
    """
    try:
        images = images_in(studies)
    except OSError as error:
        raise InputError(f"{studies}: can't be read ({error.strerror})") from error
    taken = {path.name for image in images.values() for path in image.files}
    notes = describe_unused(studies, taken)
    labels = [
        path
        for path in sorted(studies.glob("labels/*/*"))
        if is_label_file(path.name) and (_number(path) or path.parent.name in (FINAL, PREDICTION))
    ]
    if not images and not labels:
        raise InputError("; ".join([f"{studies}: has no image ({', '.join(FORMATS)})", *notes]))
    by_name: dict[str, list[Path]] = {name: [] for name in images}
    faults = []
    for path in labels:
        name = split_ending(path.name)[0]
        if name in by_name:
            by_name[name].append(path)
        else:
            faults.append(f"{path}: there is no image of this name; put its file back")
    described = {}
    for name, image in images.items():
        described[name], found = _describe_image(image, by_name[name])
        faults += found
    model, published = None, ModelFolder(models).published
    if published.is_file():
        try:
            model = describe_model(published)
        except InputError as error:
            faults.append(str(error))
    return {"folder": str(studies), "images": described, "model": model, "faults": faults, "notes": notes}


def _describe_image(image: ImageFiles, labels: list[Path]) -> tuple[dict[str, Any], list[str]]:
    """Return what is known of an image and its labels, and what is wrong with them."""
    faults: list[str] = []
    shown: dict[str, Any] = {"format": split_ending(file_of(image.path).name)[1], "files": len(image.files)}
    source = _opened(image, faults)
    if source:
        geometry = source.geometry
        shown["shape"], shown["voxel_mm"] = geometry.shape, geometry.spacing
        shown["channels"], shown["type"] = geometry.channels, geometry.dtype.name
        if crop := geometry.crop:
            shown["crop_of"] = {"image": crop.image, "level": crop.level, "start": crop.start}
        faults += _misfits(source, [path for path in labels if path.parent.name in (FINAL, PREDICTION)])
    shown["versions"] = sorted(filter(None, map(_number, labels)))
    for path in labels:
        info = read_label_info(path.with_name(f"{split_ending(path.name)[0]}.json"))
        if not info:
            faults.append(f"{path}: what was stored about it is missing or damaged")
        elif path.parent.name == FINAL:
            statistics = info.get("statistics") or {}
            kept = {key: statistics.get(key) for key in ("labelled_percent", "annotated_slices", "voxels")}
            names = info.get("slice_names")
            shown["annotation"] = {
                "version": info.get("version"),
                "time": info.get("time"),
                **kept,
                "slice_names": names,
            }
        elif path.parent.name == PREDICTION:
            shown["prediction"] = {"time": info.get("time"), "model": info.get("model")}
    return shown, faults


def _opened(image: ImageFiles, faults: list[str]) -> VolumeSource | None:
    try:
        if not image.fault:
            return open_image(image.path)
        faults.append(image.fault)
    except (InputError, OSError) as error:
        faults.append(str(error))
    return None


def _misfits(source: VolumeSource, labels: list[Path]) -> Iterator[str]:
    """Say which labels can't be read, or don't lie on the image."""
    for path in labels:
        try:
            check_on_grid(read_geometry(path), source.geometry)
        except (InputError, OSError) as error:
            yield str(error)


def _number(label: Path) -> int:
    """Return the number of the version that a label is; 0 if it is none."""
    match = _NUMBERED.fullmatch(label.parent.name)
    return int(match[1]) if match else 0
