"""Segments any number of volumes by a trained model, without a server."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.device.this_machine import this_machine
from lib.core.errors import InputError
from lib.core.files import remove_abandoned, write_json
from lib.core.inference import large
from lib.core.inference.many import each_or_why
from lib.core.inference.segmenter import Segmenter
from lib.core.inference.shared import SharedImage, segment_shared
from lib.core.model.model import load_with_digest
from lib.core.parallel import Processes, Workers
from lib.core.plan.plan import Plan
from lib.core.volumes.formats import FORMATS, ending_of, file_of, format_of, split_ending
from lib.core.volumes.image_files import ImageFiles, images_in, is_image, with_data_file
from lib.core.volumes.ome_zarr import OmeZarrSource
from lib.core.volumes.reading import read_volume, write_label_map

Progress = Callable[[str, float], None]
"""Called with what is done at the moment and the fraction done."""


@dataclass(frozen=True)
class Task:
    """An image to segment.

    Attributes:
        image: its name.
        path: its path, see ``ImageFiles``.
        files: its files.
        model: file of the model.
        out: where the label map goes; a JSON file beside it tells what it was made from.
    """

    image: str
    path: Path
    files: tuple[Path, ...]
    model: Path
    out: Path

    @property
    def is_large(self) -> bool:
        """Whether the image may be larger than memory."""
        return format_of(self.path).open is OmeZarrSource


def plan_tasks(inputs: Sequence[Path], model: Path, out: Path) -> list[Task]:
    """Return what there is to segment.

    Args:
        inputs: images, or folders of images.
        model: a model file, or a folder that has one: of a project, or of its models.
        out: folder of the results.

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
    return [Task(name, i.path, i.files, model, out / f"{name}{_ending(i.path)}") for name, i in images.items()]


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
    workers: Workers,
    done: Callable[[dict[str, Any]], None],
    progress: Progress = lambda _what, _fraction: None,
) -> list[dict[str, Any]]:
    """Segment images; return what became of each, sorted by name.

    Each worker segments an image at a time. If there are fewer OME-Zarr images than workers, all workers together
    segment these, one after the other.

    Args:
        tasks: the images.
        workers: the processes that do the work.
        done: called with what became of an image: ``image``; ``status``, which is ``done``, ``up to date`` or
            ``failed``; ``out`` or ``message``; ``seconds``; and ``voxels`` of each class.
        progress: called with what is done to an image and the fraction done, if this process works on it, or all
            workers do.

    Raises:
        WorkersLost: nobody is left to do the work. What is done is kept.
    """
    results = list[dict[str, Any]]()
    _tidy(tasks)

    def add(task: Task, outcome: dict[str, Any] | str) -> None:
        failed = {"image": task.image, "status": "failed", "message": outcome}
        results.append(failed if isinstance(outcome, str) else outcome)
        done(results[-1])

    shared = [task for task in tasks if task.is_large]
    if len(shared) >= workers.count:
        shared = []
    work = partial(segment_one, memory=workers.memory)
    if isinstance(workers, Processes) and workers.count == 1:
        work = partial(work, progress=progress)
    for task, outcome in each_or_why(work, [task for task in tasks if task not in shared], workers):
        add(task, outcome)
    together = partial(segment_one, memory=workers.memory, progress=progress, workers=workers)
    for task, outcome in each_or_why(together, shared, Processes(1)):
        add(task, outcome)
    # A worker that was lost may have left something again.
    _tidy(tasks)
    return sorted(results, key=lambda result: str(result["image"]))


def _tidy(tasks: Sequence[Task]) -> None:
    """Remove incomplete files of processes that have ended."""
    for folder in {task.out.parent for task in tasks}:
        if folder.is_dir():
            remove_abandoned(folder)


def segment_one(
    task: Task,
    memory: int | None = None,
    progress: Progress = lambda _what, _fraction: None,
    workers: Workers | None = None,
) -> dict[str, Any]:
    """Segment an image, unless its result is up to date; return what became of it, see ``segment_all``.

    An OME-Zarr image is segmented box by box. If that was interrupted, it goes on.

    Args:
        task: the image.
        memory: bytes that segmenting may take; None for what is free.
        progress: called with what is done at the moment and the fraction done.
        workers: processes that share the boxes of an OME-Zarr image; None: this process does the work.

    Raises:
        InputError: the image or the model can't be used.
        OSError: the result can't be written.
        WorkersLost: no worker is left.
    """
    model, digest = load_with_digest(task.model)
    files = [file for path in task.files for file in with_data_file(path) if file.exists()]
    made_from = {"model": digest, "files": [[path.name, *_stamp(path)] for path in files]}
    record = task.out.with_name(f"{split_ending(task.out.name)[0]}.json")
    if task.out.exists() and (known := _read(record)).get("made_from") == made_from:
        return {**known["result"], "status": "up to date"}
    began = time.monotonic()
    segmenter, machine = Segmenter.of(model), this_machine(memory)
    if task.is_large:
        wanted = _wanted_spacing(model.plan)
        if workers:
            image = SharedImage(
                task.model, digest, task.path, wanted, task.out, made_from, memory, large.MOST, workers.count
            )
            voxels = segment_shared(image, workers, progress)
        else:
            source = OmeZarrSource(task.path, wanted)
            voxels = large.segment_large(segmenter, source, task.out, machine, made_from, progress)
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
