"""Names for the images in one file: for each series, and for each of its points in time or other positions."""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lib.core.errors import InputError

_LONGEST_NAME = 60
"""Most characters of a series' name that is part of an image's."""

_MOST_LISTED = 10
"""Most names of images in a message."""

_MOST_IMAGES = 100_000
"""Most images in a file."""


class NamedImage(NamedTuple):
    """One image of a file.

    Attributes:
        series: the number of its series.
        place: its index along each axis of the series that isn't X, Y, Z or channels.
    """

    series: int
    place: Mapping[str, int]


def named_images(file: Path, series: Sequence[tuple[str, Mapping[str, int]]]) -> dict[str, NamedImage]:
    """Return a file's images by their names, which file names may hold; the name of an only image is empty.

    Args:
        file: the file.
        series: for each series, its name in the file and the number of images along its further axes, which are called
            by letters. Image 3 along ``t`` is ``t0003``.

    Raises:
        InputError: there are too many images.
    """
    count = sum(math.prod(axes.values()) for _, axes in series)
    if count > _MOST_IMAGES:
        raise InputError(f"{file}: {count} images in this file; expected at most {_MOST_IMAGES}, save them separately")
    names = [re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:_LONGEST_NAME] for name, _ in series]
    images = _named(names, series)
    # Some file systems don't tell names apart by case.
    if not all(names) or len({name.lower() for name, _ in images}) < len(images):
        images = _named([f"series{number}" for number in range(len(series))], series)
    return dict(images)


def _named(names: list[str], series: Sequence[tuple[str, Mapping[str, int]]]) -> list[tuple[str, NamedImage]]:
    """Return all images, each with the name of its series, if there are several, and its place along further axes."""
    images = []
    for number, (name, (_, axes)) in enumerate(zip(names, series, strict=True)):
        for indices in itertools.product(*map(range, axes.values())):
            place = dict(zip(axes, indices, strict=True))
            parts = [name] * (len(series) > 1) + [f"{axis}{place[axis]:04d}" for axis in axes if axes[axis] > 1]
            images.append(("_".join(parts), NamedImage(number, place)))
    return images


def image_named(file: Path, name: str, images: dict[str, NamedImage]) -> NamedImage:
    """Return one of a file's images by its name.

    Raises:
        InputError: there is none of that name.
    """
    if name in images:
        return images[name]
    listed = ", ".join(list(images)[:_MOST_LISTED]) + (", …" if len(images) > _MOST_LISTED else "")
    if "" in images:
        raise InputError(f"{file}: there is no image {name!r} in this file, which holds one image; leave the name out")
    raise InputError(
        f"{file}: {len(images)} images in this file, and {'no name was given' if not name else f'none is {name!r}'}; "
        f"name one of them as {file / next(iter(images))}: {listed}"
    )
