"""The metadata of OME-Zarr images, as the NGFF specification has them: 0.4 (Zarr format 2) and 0.5 (Zarr format 3).

They come from outside and are parsed once, into types with limits.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from lib.core.errors import InputError

_LARGEST = 1 << 24
"""Most bytes of a metadata file."""

_MILLIMETRES = {
    **dict.fromkeys(("angstrom", "Å"), 1e-7),
    **dict.fromkeys(("picometer", "pm"), 1e-9),
    **dict.fromkeys(("nanometer", "nm"), 1e-6),
    **dict.fromkeys(("micrometer", "um", "\u00b5m", "\u03bcm"), 1e-3),
    **dict.fromkeys(("millimeter", "mm"), 1.0),
    **dict.fromkeys(("centimeter", "cm"), 10.0),
    **dict.fromkeys(("decimeter", "dm"), 100.0),
    **dict.fromkeys(("meter", "m"), 1000.0),
    **dict.fromkeys(("inch", "in"), 25.4),
    **dict.fromkeys(("foot", "ft"), 304.8),
    **dict.fromkeys(("yard", "yd"), 914.4),
}
"""Millimetres of the units of length, by the names of the specification and the symbols that some files have."""

_MOST_IMAGES = 100_000
"""Most series of a folder."""


class Axis(BaseModel):
    """One axis of an image's arrays."""

    name: str
    type: str | None = None
    unit: str | None = None

    @property
    def letter(self) -> str:
        """``t``, ``c``, ``z``, ``y`` or ``x``; another text if the axis is none of them."""
        if self.type in (None, "space"):
            return self.name
        return {"channel": "c", "time": "t"}.get(self.type, self.type)


class Transform(BaseModel):
    """A step from the indices of voxels to their place."""

    type: Literal["scale", "translation", "identity"]
    scale: list[Annotated[FiniteFloat, Field(gt=0)]] = []
    translation: list[FiniteFloat] = []


class Dataset(BaseModel):
    """One level of a pyramid."""

    path: str
    coordinateTransformations: list[Transform] = []


class Multiscale(BaseModel):
    """One image: a pyramid of arrays with the same axes."""

    axes: list[Axis]
    datasets: list[Dataset] = Field(min_length=1)
    coordinateTransformations: list[Transform] = []
    version: str | None = None

    @property
    def letters(self) -> str:
        """The axes in the order of the arrays, e.g. ``tczyx``."""
        return "".join(axis.letter for axis in self.axes)

    def placed(self, dataset: Dataset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the scale and the translation of a level along each axis, in the units of the axes.

        Raises:
            ValueError: they don't have one number for each axis.
        """
        scale, translation = np.ones(len(self.axes)), np.zeros(len(self.axes))
        for transform in dataset.coordinateTransformations + self.coordinateTransformations:
            numbers = {"scale": transform.scale, "translation": transform.translation}.get(transform.type)
            if numbers is not None and len(numbers) != len(self.axes):
                raise ValueError(f"a {transform.type} of {len(numbers)} numbers for {len(self.axes)} axes")
            if transform.type == "scale":
                scale *= transform.scale
                translation *= transform.scale
            elif transform.type == "translation":
                translation += transform.translation
        return scale, translation


class Image(NamedTuple):
    """An image in an OME-Zarr folder.

    Attributes:
        group: the folder that has the metadata of the image.
        number: of the image among those of the group.
        zarr_format: 2 or 3.
        multiscale: the metadata.
    """

    group: Path
    number: int
    zarr_format: Literal[2, 3]
    multiscale: Multiscale


def images_of(root: Path) -> list[list[Image]]:
    """Return the images of each series in an OME-Zarr folder; it is one series unless bioformats2raw wrote it.

    Raises:
        InputError: no image, a plate, another version, axes unknown, damaged metadata, files outside of the folder.
    """
    _, attributes = read_attributes(root, root)
    if "plate" in attributes or "well" in attributes:
        raise InputError(
            f"{root}: a plate with many fields; expected one image, copy the folder of a field (e.g. A/1/0 in it) to a "
            "folder of its own whose name ends in .zarr"
        )
    if "bioformats2raw.layout" not in attributes:
        return [_images_of_group(root, root)]
    series = read_attributes(root, root / "OME")[1].get("series") if (root / "OME").is_dir() else None
    if not isinstance(series, list):
        count = 0
        while (root / str(count)).is_dir():
            count += 1
        series = list(range(count))
    if not 0 < len(series) <= _MOST_IMAGES:
        raise InputError(f"{root}: bioformats2raw's layout with {len(series)} series; expected a few, convert again")
    return [_images_of_group(root, inside(root, root / str(path))) for path in series]


def _images_of_group(root: Path, group: Path) -> list[Image]:
    """Return the images of one group.

    Raises:
        InputError: as ``images_of``.
    """
    zarr_format, attributes = read_attributes(root, group)
    found = attributes.get("multiscales")
    if not isinstance(found, list) or not found:
        raise InputError(
            f"{group}: no OME-Zarr image (no 'multiscales' in its attributes); give the folder of an image"
        )
    images = []
    for number, content in enumerate(found):
        try:
            multiscale = Multiscale.model_validate(content)
            version = attributes.get("version") if zarr_format == 3 else multiscale.version or "0.4"
            if version != ("0.5" if zarr_format == 3 else "0.4"):
                raise ValueError(f"version {version!r} in Zarr format {zarr_format}")
            for dataset in multiscale.datasets:
                multiscale.placed(dataset)
        except ValueError as error:
            raise InputError(
                f"{group}: the metadata 'multiscales' can't be used ({_short(error)}); expected OME-Zarr 0.4 or 0.5 "
                "with axes, and with scale and translation in numbers, convert the image again"
            ) from error
        letters = [axis.letter for axis in multiscale.axes]
        if not set("yx") <= set(letters) <= set("tczyx") or len(set(letters)) < len(letters):
            described = ", ".join(f"{axis.name!r} of type {axis.type!r}" for axis in multiscale.axes)
            raise InputError(f"{group}: the axes are {described}; expected x, y, z and perhaps channel and time")
        if "z" not in letters:
            raise InputError(f"{group}: a 2-D image (axes {', '.join(letters)}); expected a volume with an axis z")
        images.append(Image(group, number, zarr_format, multiscale))
    return images


def millimetres(group: Path, axis: Axis) -> float | None:
    """Return the millimetres of an axis' unit, or None if it has none.

    Raises:
        InputError: the unit is unknown.
    """
    if axis.unit is None:
        return None
    if axis.unit not in _MILLIMETRES:
        raise InputError(f"{group}: axis {axis.name!r} has the unit {axis.unit!r}; expected {', '.join(_MILLIMETRES)}")
    return _MILLIMETRES[axis.unit]


def inside(root: Path, path: Path) -> Path:
    """Return a path in an OME-Zarr folder as it is, if no link or ``..`` leads out of the folder.

    Raises:
        InputError: it leads out.
    """
    if not path.resolve().is_relative_to(root.resolve()):
        raise InputError(f"{root}: it refers to {path}, which is outside of the folder; copy the data into the folder")
    return path


def read_attributes(root: Path, group: Path) -> tuple[Literal[2, 3], dict[str, Any]]:
    """Return the Zarr format of a group, and its OME attributes.

    Raises:
        InputError: no group, damaged, or a link leads out of the root.
    """
    if (group / "zarr.json").exists():
        attributes = read_json(root, group / "zarr.json").get("attributes")
        ome = attributes.get("ome") if isinstance(attributes, dict) else None
        return 3, ome if isinstance(ome, dict) else {}
    if (group / ".zattrs").exists():
        return 2, read_json(root, group / ".zattrs")
    raise InputError(
        f"{group}: no OME-Zarr image (neither zarr.json nor .zattrs in it); check the path, or copy it again"
    )


def read_json(root: Path, path: Path) -> dict[str, Any]:
    """Return the content of a metadata file.

    Raises:
        InputError: as ``read_attributes``, or it is too long.
    """
    try:
        if inside(root, path).stat().st_size > _LARGEST:
            raise ValueError(f"{path.stat().st_size} bytes, {_LARGEST} are the most")
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); the metadata is damaged, copy the folder again") from error
    return content


def _short(error: ValueError) -> str:
    """Return the first thing that is wrong."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
