"""Segments any number of volumes by a trained model, without a server."""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.device.machine import default_device
from lib.core.device.memory import free_memory
from lib.core.device.this_machine import this_machine
from lib.core.errors import InputError
from lib.core.files import remove_abandoned, write_json
from lib.core.inference.large import segment_large
from lib.core.inference.segmenter import Segmenter
from lib.core.model.model import Model
from lib.core.parallel import each_in_processes
from lib.core.plan.plan import Plan
from lib.core.volumes.formats import FORMATS, ending_of, file_of, format_of, split_ending
from lib.core.volumes.image_files import ImageFiles, images_in, is_image, with_data_file
from lib.core.volumes.ome_zarr import OmeZarrSource
from lib.core.volumes.reading import read_volume, write_label_map

MEMORY_OF_WORKER = 4 * 10**9
"""Bytes of free memory for each process that segments, if nobody says how many processes to use."""


@dataclass(frozen=True)
class Task:
    """An image to segment.

    Attributes:
        image: its name.
        path: its path, see ``ImageFiles``.
        files: its files.
        model: file of the model.
        out: where the label map goes; a JSON file beside it tells what it was made from.
        memory: bytes that segmenting may take.
    """

    image: str
    path: Path
    files: tuple[Path, ...]
    model: Path
    out: Path
    memory: int


def plan_tasks(inputs: Sequence[Path], model: Path, out: Path, workers: int | None) -> tuple[list[Task], int]:
    """Return what there is to segment, and by how many processes.

    Args:
        inputs: images, or folders of images.
        model: a model file, or a folder that has one: of a project, or of its models.
        out: folder of the results.
        workers: how many processes; None for as many as there are cores, images and memory for, one on a GPU.

    Raises:
        InputError: there is no such image or model, or two images have the same name.
    """
    model = model_file(model)
    images: dict[str, ImageFiles] = {}
    for path in inputs:
        for name, image in _images_of(path):
            if name in images and images[name] != image:
                raise InputError(
                    f"{images[name].path} and {image.path}: both are named {name!r}, and so would be their results; "
                    "segment them into different folders"
                )
            images[name] = image
    if workers is None:
        most = 1 if default_device() != "cpu" else min(os.cpu_count() or 1, free_memory() // MEMORY_OF_WORKER)
        workers = max(1, min(most, len(images)))
    memory = this_machine(None).memory // workers
    tasks = [Task(name, i.path, i.files, model, out / f"{name}{_ending(i.path)}", memory) for name, i in images.items()]
    return tasks, workers


def model_file(path: Path) -> Path:
    """Return the model file: the path, or that in the folder of a project or of its models.

    Raises:
        InputError: there is none.
    """
    found = [file for file in (path, path / "model.pt", path / "models/model.pt") if file.is_file()]
    if not found:
        raise InputError(f"{path}: no model; give a model file, or the folder of a project whose model is trained")
    return found[0]


def segment_all(
    tasks: Sequence[Task],
    workers: int,
    done: Callable[[dict[str, Any]], None],
    progress: Callable[[str, float], None] | None = None,
) -> list[dict[str, Any]]:
    """Segment images; return what became of each, sorted by name.

    Args:
        tasks: the images.
        workers: how many processes.
        done: called with what became of an image: ``image``; ``status``, which is ``done``, ``up to date`` or
            ``failed``; ``out`` or ``message``; ``seconds``; and ``voxels`` of each class.
        progress: called with what is done to an image and the fraction done, if this process does the work.
    """
    results = []
    for folder in {task.out.parent for task in tasks}:
        if folder.is_dir():
            remove_abandoned(folder)
    work = partial(segment_one, progress=progress) if progress and workers <= 1 else segment_one
    for task, outcome in each_in_processes(work, tasks, workers):
        if isinstance(outcome, Exception):
            known = isinstance(outcome, (InputError, OSError))
            message = str(outcome) if known else f"{type(outcome).__name__}: {outcome}"
            outcome = {"image": task.image, "status": "failed", "message": message}
        results.append(outcome)
        done(outcome)
    return sorted(results, key=lambda result: str(result["image"]))


def segment_one(task: Task, progress: Callable[[str, float], None] = lambda _what, _fraction: None) -> dict[str, Any]:
    """Segment an image, unless its result is up to date; return what became of it, see ``segment_all``.

    An OME-Zarr image is segmented box by box. If that was interrupted, it goes on.

    Raises:
        InputError: the image or the model can't be used.
        OSError: the result can't be written.
    """
    model, digest = _load(task.model, task.model.stat().st_mtime_ns)
    files = [file for path in task.files for file in with_data_file(path) if file.exists()]
    made_from = {"model": digest, "files": [[path.name, *_stamp(path)] for path in files]}
    record = task.out.with_name(f"{split_ending(task.out.name)[0]}.json")
    if task.out.exists() and (known := _read(record)).get("made_from") == made_from:
        return {**known["result"], "status": "up to date"}
    began = time.monotonic()
    segmenter, machine = Segmenter.of(model), this_machine(task.memory)
    if format_of(task.path).open is OmeZarrSource:
        source = OmeZarrSource(task.path, _wanted_spacing(model.plan))
        voxels = segment_large(segmenter, source, task.out, machine, made_from, progress)
    else:
        volume = read_volume(task.path)
        labels = segmenter.segment(volume, machine, lambda fraction: progress("segmenting", fraction))
        write_label_map(task.out, labels, volume.affine)
        voxels = dict(enumerate(np.bincount(labels.ravel()).tolist()))
    names = [model.plan.scheme.background, *model.plan.scheme.foreground]
    result = {
        "image": task.image,
        "status": "done",
        "out": str(task.out),
        "seconds": round(time.monotonic() - began, 1),
        "voxels": {name: voxels.get(value, 0) for value, name in enumerate(names)},
    }
    # Written last: without it, the label map counts as not made.
    write_json(record, {"made_from": made_from, "result": result})
    return result


def _wanted_spacing(plan: Plan) -> tuple[float, ...] | None:
    """Return the largest voxels in mm along X, Y, Z of the level of a pyramid that a network should see."""
    if plan.spacing is None and plan.voxel_size is not None:
        # The level nearest to the voxels of the training images, where the next one has voxels of twice the size.
        return tuple(math.sqrt(2) * size for size in plan.voxel_size)
    return plan.spacing


@lru_cache(maxsize=1)
def _load(path: Path, _: int) -> tuple[Model, str]:
    """Read a model, once in each process and each time that it was written; return it with its SHA-256."""
    return Model.load(path), hashlib.sha256(path.read_bytes()).hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    """Return when a file, or any file in a folder, was last written, and how many bytes there are."""
    # Label images in an OME-Zarr image are no part of it.
    files = (
        [path] if path.is_file() else [file for file in path.rglob("*") if "labels" not in file.relative_to(path).parts]
    )
    states = [file.stat() for file in files if file.is_file()]
    return max((state.st_mtime_ns for state in states), default=0), sum(state.st_size for state in states)


def _read(path: Path) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return known if isinstance(known, dict) and isinstance(known.get("result"), dict) else {}
    except (OSError, ValueError):
        return {}


def _images_of(path: Path) -> Iterator[tuple[str, ImageFiles]]:
    """Yield the images at a path with their names.

    Raises:
        InputError: there is none.
    """
    if path.is_dir() and not is_image(path):
        found = images_in(path)
        if not found:
            raise InputError(f"{path}: no image in this folder; give images, or a folder of them")
        yield from found.items()
        return
    file = file_of(path)
    if not file.exists():
        raise InputError(f"{path}: no such file or folder")
    # Its other channels, or the images in it.
    images = {name: one for name, one in images_in(file.parent).items() if path == one.path or file in one.files}
    exact = {name: one for name, one in images.items() if path == one.path}
    if not images:
        raise InputError(f"{path}: no image; expected one of {', '.join(FORMATS)}")
    yield from (exact or images).items()


def _ending(path: Path) -> str:
    """Return the ending of a result: that of the image where label maps of its format can be written."""
    known = format_of(path)
    if known.open is OmeZarrSource:
        return ".ome.zarr"
    return ending_of(file_of(path)) if known.write else ".nii.gz"
