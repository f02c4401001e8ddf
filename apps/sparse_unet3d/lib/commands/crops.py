"""Puts boxes of an image that is larger than memory into a project, as images that people paint."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from lib.core.data.large_image import LargeImage
from lib.core.data.preparation import check_channels
from lib.core.device.memory import free_memory
from lib.core.device.this_machine import this_machine
from lib.core.errors import InputError
from lib.core.files import remove_abandoned, replacing
from lib.core.inference.segmenter import Segmenter
from lib.core.model.model import Model
from lib.core.volumes.crop import FIELD, Crop
from lib.core.volumes.formats import file_of, format_of, split_ending
from lib.core.volumes.image_files import images_in
from lib.core.volumes.intensity import Range
from lib.core.volumes.nrrd import NrrdSource
from lib.core.volumes.ome_zarr import OmeZarrSource
from lib.core.volumes.reading import read_geometry
from lib.core.volumes.source import Box, shape_of_box
from lib.core.volumes.spreading import spread
from lib.core.volumes.stored_volume import StoredVolume

from .errors import saying_what_failed
from .progress import bars, show_step
from .segment import model_file

CANDIDATES = 4
"""How many boxes a model looks at for each one that is chosen."""

Told = Callable[[str, float], None]
"""Called with what is done at the moment and the fraction done."""


def crop_and_report(image: Path, studies: Path, size: int, count: int, spacing: str, model: Path | None) -> None:
    """Make crops, and report on the terminal; arguments and exceptions are those of ``make_crops``."""
    with bars(Console()) as progress:
        show = partial(show_step, progress, progress.add_task(""))
        written = make_crops(image, studies, size, count, spacing, model, show)
    print(f"{studies}: {len(written)} of {count} crops added", *(path.name for path in written), sep="\n  ")


def make_crops(
    image: Path, studies: Path, size: int, count: int, spacing: str, model: Path | None, progress: Told
) -> list[Path]:
    """Write boxes of an image that aren't in the project yet as NRRD files, and return their paths.

    Args:
        image: the OME-Zarr image.
        studies: the project's folder; it is made if it isn't there.
        size: side of the boxes in voxels. They are smaller where the image is.
        count: how many boxes to add; there are fewer if no more fit.
        spacing: largest voxels as ``X,Y,Z`` in mm, which choose the level; empty for the finest level.
        model: model file, or folder that has one; the boxes are those in which it is least certain. None for boxes
            that are spread over the image.
        progress: called as the work goes on.

    Raises:
        InputError: no OME-Zarr image, no such model, no box left, or a file can't be read or written. Boxes that are
            written stay.
    """
    if not file_of(image).exists():
        raise InputError(f"{image}: no such file or folder")
    if format_of(image).open is not OmeZarrSource:
        raise InputError(
            f"{image}: no OME-Zarr image (a .zarr folder). Put other images into the project as they are, or convert "
            "one that is larger than memory, e.g. by bioformats2raw"
        )
    trained = Model.load(model_file(model)) if model else None
    source = OmeZarrSource(image, _spacing(spacing))
    if trained:
        check_channels(source.geometry.channels, trained.plan)
    shape = source.geometry.shape
    sides = shape_of_box((slice(0, size),) * 3, shape)
    _check_sides(source, sides)
    with saying_what_failed(studies):
        studies.mkdir(parents=True, exist_ok=True)
    remove_abandoned(studies)
    free = _free(source, studies, sides)
    first = next(free, None)
    if first is None:
        raise InputError(
            f"{studies}: has all boxes of {' x '.join(map(str, sides))} voxels of {source.path}; give another --size"
        )
    boxes = itertools.chain([first], free)
    volume = StoredVolume(source, lambda fraction: progress("Reading intensities", fraction))
    if trained is None:
        chosen = _with_content(source, boxes, count)
    else:
        candidates = _with_content(source, boxes, CANDIDATES * count)
        chosen = _least_certain(trained, LargeImage(volume, trained.plan), candidates, progress)[:count]
    written = []
    for number, box in enumerate(chosen, start=1):
        written.append(_write(source, box, studies, volume.ranges))
        progress("Writing", number / len(chosen))
    return written


def _spacing(text: str) -> tuple[float, ...]:
    try:
        spacing = tuple(map(float, text.split(","))) if text else (0.0, 0.0, 0.0)
        if len(spacing) != 3 or not all(0 <= size < math.inf for size in spacing):
            raise ValueError
    except ValueError as error:
        raise InputError(f"--spacing {text}: expected X,Y,Z in mm, three numbers such as 0.001,0.001,0.002") from error
    return spacing


def _check_sides(source: OmeZarrSource, sides: tuple[int, int, int]) -> None:
    """Refuse boxes that can't be read again.

    Raises:
        InputError: the image is flat, or there is no memory for a box.
    """
    geometry = source.geometry
    if min(sides) < 2:
        raise InputError(
            f"{source.path}: an image of shape {geometry.shape}; expected at least 2 voxels along each axis"
        )
    voxels = math.prod(sides) * geometry.channels * geometry.dtype.itemsize
    needed = 3 * voxels + source.working_memory((slice(0, sides[0]), slice(0, sides[1]), slice(0, sides[2])))
    if needed > free_memory():
        raise InputError(
            f"--size {max(sides)}: a box takes {needed / 1e9:.1f} GB of memory, and {free_memory() / 1e9:.1f} GB are "
            "free; give a smaller size"
        )


def _name(source: OmeZarrSource) -> str:
    """Return the image's name, as it would have in a project."""
    file = file_of(source.path)
    name = split_ending(file.name)[0]
    return name if file == source.path else f"{name}_{source.path.name}"


def _stem(source: OmeZarrSource, box: Box) -> str:
    """Return the name of a box, which is the same each time."""
    level = f"-level{source.level}" if source.level else ""
    return _name(source) + level + "".join(f"-{axis}{side.start:04}" for axis, side in zip("xyz", box, strict=True))


def _free(source: OmeZarrSource, studies: Path, sides: tuple[int, int, int]) -> Iterator[Box]:
    """Yield the boxes that the project doesn't have, not even a part of them."""
    images, taken = images_in(studies), list[Box]()
    for image in images.values():
        with suppress(InputError, OSError):
            geometry = read_geometry(image.path)
            if geometry.crop and (geometry.crop.image, geometry.crop.level) == (_name(source), source.level):
                x, y, z = map(slice, geometry.crop.start, np.add(geometry.crop.start, geometry.shape).tolist())
                taken.append((x, y, z))
    for box in spread(source.geometry.shape, sides):
        if _stem(source, box) not in images and not any(_overlap(box, other) for other in taken):
            yield box


def _overlap(one: Box, other: Box) -> bool:
    return all(a.start < b.stop and b.start < a.stop for a, b in zip(one, other, strict=True))


def _with_content(source: OmeZarrSource, boxes: Iterable[Box], count: int) -> list[Box]:
    """Return the first boxes that aren't constant; if there are fewer, constant ones follow."""
    found, empty = list[Box](), list[Box]()
    for box in boxes:
        (empty if _is_constant(source.read(box)) else found).append(box)
        if len(found) == count:
            break
    return [*found, *empty][:count]


def _is_constant(array: NDArray[np.generic]) -> bool:
    first = array[:, :1, :1, :1]
    return bool(((array == first) | (array != array)).all())


def _least_certain(model: Model, image: LargeImage, boxes: Sequence[Box], progress: Told) -> list[Box]:
    """Return the boxes, those in which the model is least certain first."""
    entropy = list[float]()

    def done(_: Box, mean: float) -> None:
        entropy.append(mean)
        progress("Asking the model", len(entropy) / len(boxes))

    Segmenter.of(model).entropy_of_boxes(image, boxes, this_machine(None), done)
    return [boxes[number] for number in np.argsort(-np.array(entropy), kind="stable")]


def _write(source: OmeZarrSource, box: Box, studies: Path, ranges: tuple[Range, ...]) -> Path:
    """Write a box; it lies in space where it lies in the image."""
    path = studies / f"{_stem(source, box)}.nrrd"
    x, y, z = (side.start for side in box)
    affine = source.geometry.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ (x, y, z)
    fields = {FIELD: Crop(_name(source), source.level, (x, y, z), ranges).to_text()}
    with saying_what_failed(path), replacing(path) as beside:
        NrrdSource.write_image(beside, source.read(box), affine, fields)
    return path
