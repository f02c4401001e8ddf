"""Store a label map in the OME-Zarr folder of its image, as ``labels/NAME``, where viewers of OME-Zarr look for it."""

import itertools
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import InputError
from lib.core.files import make_folder, name_beside, remove_abandoned, replace, sync_file, sync_folder, write_json

from .ome_zarr import Level, OmeZarrSource
from .ome_zarr_metadata import inside, read_json

_CREATOR = {"_creator": {"name": "sparse_unet3d"}}
"""The attribute of the labels that this module wrote and may replace."""


def write_label_image(
    folder: Path,
    name: str,
    array: NDArray[np.uint8],
    source: OmeZarrSource,
    names: Mapping[int, str],
    colors: Mapping[int, tuple[int, int, int]],
) -> None:
    """Write a label map as a pyramid with the levels of its image, in the same version of OME-Zarr.

    Each voxel of a level has the value of the nearest voxel of the label map. The label image is renamed into place.
    One of the same name that this function wrote is replaced; its other points in time are kept.

    Args:
        folder: the group of the image: ``source.image.group``, or the same group in a copy of it.
        name: of the label image: letters, digits, ``-``, ``_`` and ``.``.
        array: (X, Y, Z), on the grid of ``source.geometry``.
        source: the image.
        names: what the values mean.
        colors: (red, green, blue) of the values, 0 to 255.

    Raises:
        InputError: the name can't be used, or a label image of this name is there that something else wrote.
        OSError: it can't be written.
    """
    import zarr  # only there where ``source`` could be opened

    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name):
        raise InputError(f"{folder}: the label image {name!r} can't be stored; name it by letters, digits, - and _")
    if array.shape != source.geometry.shape:
        raise ValueError(f"a label map of shape {array.shape} for an image of shape {source.geometry.shape}")
    labels = inside(folder, folder / "labels")
    place = inside(folder, labels / name)
    make_folder(labels)
    remove_abandoned(labels)
    zarr_format = source.image.zarr_format
    if place.exists() and not _may_replace(place, zarr_format):
        raise InputError(f"{place}: there already, and made by another program; choose another name, or move it away")

    beside = name_beside(place)
    try:
        store = zarr.storage.LocalStore(beside)
        if place.exists() and "t" in source.levels[0].letters:
            shutil.copytree(place, beside)
        letters = source.levels[0].letters.replace("c", "")
        attributes = label_attributes(name, source, source.levels, letters, names, colors, "../../")
        group = zarr.open_group(store, mode="a", zarr_format=zarr_format)
        group.attrs.put(attributes)
        for number, level in enumerate(source.levels):
            _write_level(group, str(number), level, array, source)
        for file in sorted(beside.rglob("*")):
            sync_folder(file) if file.is_dir() else sync_file(file)
        sync_folder(beside)
        replace_folder(beside, place)
    except BaseException:
        # What can't be removed now is removed when a label image is written again.
        with suppress(OSError):
            shutil.rmtree(beside)
        raise
    _add_to_list(labels, name, zarr_format)


def _write_level(group: Any, path: str, level: Level, array: NDArray[np.uint8], source: OmeZarrSource) -> None:
    """Write one level of the pyramid, file by file, into files of the same shape as those of the image.

    Args:
        group: the label image, as opened by zarr.
        path: of the level in it.
        level: of the image, with the grid that is wanted.
        array: (X, Y, Z), on the grid of ``source.geometry``.
        source: the image.
    """
    letters = level.letters.replace("c", "")
    axes = [level.letters.index(letter) for letter in letters]
    shape = tuple(level.array.shape[axis] for axis in axes)
    files = tuple(1 if letter == "t" else level.files[axis] for letter, axis in zip(letters, axes, strict=True))
    chunks = tuple(min(level.array.chunks[axis], file) for axis, file in zip(axes, files, strict=True))
    if path not in group or group[path].shape != shape:
        create_level(group, path, letters, shape, chunks, files if level.array.shards else None)
    stored, nearest = group[path], nearest_voxels(level, source.levels[source.level])
    bounds = [(source.time, source.time + 1) if letter == "t" else (0, level.sizes[letter]) for letter in letters]
    starts = [range(*side, step) for side, step in zip(bounds, files, strict=True)]
    for start in itertools.product(*starts):
        part = [slice(at, min(at + step, end)) for at, step, (_, end) in zip(start, files, bounds, strict=True)]
        block = array[np.ix_(*(nearest[letter][part[letters.index(letter)]] for letter in "xyz"))]
        block = block.transpose(["xyz".index(letter) for letter in letters if letter != "t"])
        stored[tuple(part)] = np.expand_dims(block, letters.index("t")) if "t" in letters else block


def create_level(
    group: Any,
    path: str,
    letters: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    shards: tuple[int, ...] | None = None,
) -> Any:
    """Create and return the array of a level of a label image; all its voxels are 0.

    Args:
        group: the label image, as opened by zarr.
        path: of the level in it.
        letters: of its axes.
        shape: along these axes.
        chunks: sides of what is decoded at once.
        shards: sides of what is in one file; None for one chunk in each.
    """
    import numcodecs

    is_old = group.metadata.zarr_format == 2
    return group.create_array(
        path,
        shape=shape,
        chunks=chunks,
        shards=shards,
        dtype="uint8",
        fill_value=0,
        # Programs in Java know Blosc in format 2, and zarr's choice, Zstandard, only in format 3.
        compressors=numcodecs.Blosc() if is_old else "auto",
        chunk_key_encoding={"name": "v2" if is_old else "default", "separator": "/"},
        dimension_names=None if is_old else letters,
        overwrite=True,
    )


def nearest_voxels(level: Level, base: Level) -> dict[str, NDArray[np.intp]]:
    """Return along x, y and z, for each voxel of a level, the nearest voxel of another level."""
    nearest = {}
    for letter in "xyz":
        axis = level.letters.index(letter)
        place = np.arange(level.sizes[letter]) * level.scale[axis] + level.translation[axis]
        index = np.rint((place - base.translation[axis]) / base.scale[axis])
        nearest[letter] = np.clip(index, 0, base.sizes[letter] - 1).astype(np.intp)
    return nearest


def label_attributes(
    name: str,
    source: OmeZarrSource,
    levels: Sequence[Level],
    letters: str,
    names: Mapping[int, str],
    colors: Mapping[int, tuple[int, int, int]],
    image: str | None,
) -> dict[str, Any]:
    """Return the attributes of a label image that the specification asks for.

    Args:
        name: of the label image.
        source: its image.
        levels: those of the image that it has, too.
        letters: of its axes.
        names: what the values mean.
        colors: (red, green, blue) of the values, 0 to 255.
        image: path from the label image to its image, if that has a fixed one.
    """
    multiscale = source.image.multiscale
    kept = [multiscale.letters.index(letter) for letter in letters]
    datasets = [
        {
            "path": str(number),
            "coordinateTransformations": [
                {"type": "scale", "scale": level.scale[kept].tolist()},
                {"type": "translation", "translation": level.translation[kept].tolist()},
            ],
        }
        for number, level in enumerate(levels)
    ]
    axes = [multiscale.axes[axis].model_dump(exclude_none=True) for axis in kept]
    is_old = source.image.zarr_format == 2
    version = {"version": "0.4"} if is_old else {}
    content = {
        "multiscales": [{**version, "name": name, "axes": axes, "datasets": datasets}],
        "image-label": {
            **version,
            "colors": [{"label-value": value, "rgba": [*colors[value], 255]} for value in sorted(colors)],
            "properties": [{"label-value": value, "name": names[value]} for value in sorted(names)],
            **({} if image is None else {"source": {"image": image}}),
        },
    }
    return {**_CREATOR, **(content if is_old else {"ome": {"version": "0.5", **content}})}


def _may_replace(place: Path, zarr_format: int) -> bool:
    """Return whether a label image is one that this module wrote."""
    file = place / (".zattrs" if zarr_format == 2 else "zarr.json")
    content = read_json(place, file) if file.exists() else {}
    attributes = content if zarr_format == 2 else content.get("attributes", {})
    return bool(attributes.get("_creator") == _CREATOR["_creator"])


def replace_folder(beside: Path, place: Path) -> None:
    """Rename a folder into place. One that is there is put aside first, since folders can't be renamed over others."""
    aside = name_beside(place)
    if place.exists():
        replace(place, aside)
    replace(beside, place)
    sync_folder(place.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _add_to_list(labels: Path, name: str, zarr_format: int) -> None:
    """Add a label image to the list of an image's label images."""
    file = labels / (".zattrs" if zarr_format == 2 else "zarr.json")
    content = read_json(labels, file) if file.exists() else {}
    if zarr_format == 2:
        ome = content
        write_json(labels / ".zgroup", {"zarr_format": 2})
    else:
        content = {"zarr_format": 3, "node_type": "group", **content}
        ome = content.setdefault("attributes", {}).setdefault("ome", {"version": "0.5"})
    listed = ome.setdefault("labels", [])
    if name not in listed:
        listed.append(name)
        write_json(file, content)
