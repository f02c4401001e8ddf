"""OME-Zarr images (``.zarr`` folders), versions 0.4 and 0.5: one level of a pyramid, read chunk by chunk.

Axes come from the metadata. Lengths are converted to millimetres. Each point in time is an image of its own. A chunk
that isn't there is legal, and means that all its voxels have the fill value; a chunk that is there must be complete.
"""

import itertools
import math
import platform
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import InputError

from .ome_zarr_metadata import Image, images_of, inside, millimetres
from .pyramid import choose_level, coarsest, level_notes
from .source import Box, shape_of_box
from .volume import LPS_TO_RAS, Geometry
from .voxel_size import note_without_metadata, size_without_metadata

if TYPE_CHECKING:
    import zarr

_CODECS = ("bytes", "transpose", "sharding_indexed", "crc32c", "blosc", "gzip", "zstd", "zlib", "lz4", "bz2", "lzma")
"""Ways to store a chunk. Others run code that the file names (pickle), or change the values."""

_COPIES = 6
"""How often zarr holds a chunk while it decodes it, at most: as stored, decoded, cut out, and in between (measured)."""

_MOST_TIMES = 100_000
"""Most points in time; each is an image with a name."""


class Level:
    """One level of an image's pyramid.

    Attributes:
        array: what zarr opened.
        scale, translation: along each axis of the array, in the units of the axes.
        shape: (X, Y, Z).
        channels: number of channels.
    """

    def __init__(self, root: Path, image: Image, number: int) -> None:
        """Open the level without reading voxels.

        Raises:
            InputError: not there, damaged, types or codecs that can't be used, or other axes than the image.
        """
        dataset = image.multiscale.datasets[number]
        self._root, self.letters = root, image.multiscale.letters
        self.folder = inside(root, image.group / dataset.path)
        self.scale, self.translation = image.multiscale.placed(dataset)
        self.array = _open_array(root, self.folder, image.zarr_format)
        self._metadata = self.array.metadata.to_dict()
        shape = self.array.shape
        if len(shape) != len(self.letters):
            raise InputError(
                f"{self.folder}: an array of shape {shape}; expected the axes {self.letters}, convert the image again"
            )
        self.sizes = dict(zip(self.letters, shape, strict=True))
        self.shape = (self.sizes["x"], self.sizes["y"], self.sizes["z"])
        self.channels = self.sizes.get("c", 1)
        self.files = self.array.shards or self.array.chunks
        """Shape of the voxels in one file."""
        if min(shape) < 1 or min(self.files) < 1 or min(self.array.chunks) < 1:
            raise InputError(
                f"{self.folder}: an array of shape {shape} in chunks of {self.files}; expected sizes above 0"
            )

    def along(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return those of one value for each axis that belong to X, Y and Z."""
        return values[[self.letters.index(letter) for letter in "xyz"]]

    def in_flight(self, box: Box | None) -> int:
        """Return the bytes that reading a box takes at a time. Of a shard, only the chunks in the box are read."""
        wanted = dict(zip("xyz", shape_of_box(box, self.shape), strict=True), t=1, c=self.channels)
        sizes = zip(self.letters, self.files, self.array.chunks, strict=True)
        voxels = math.prod(min(file, wanted[letter] + 2 * (chunk - 1)) for letter, file, chunk in sizes)
        return _COPIES * max(voxels, math.prod(self.array.chunks)) * self.array.dtype.itemsize

    def read(self, box: Box | None, time: int) -> NDArray[Any]:
        """Read a box (C, X, Y, Z) of one point in time.

        Raises:
            InputError: a chunk is damaged, or a link leads out of the image's folder.
        """
        bounds = {"t": (time, time + 1), "c": (0, self.channels)}
        for letter, side in zip("xyz", box or (slice(None),) * 3, strict=True):
            bounds[letter] = side.indices(self.sizes[letter])[:2]
        shape = shape_of_box(box, self.shape)
        result = np.empty((self.channels, *shape), self.array.dtype.newbyteorder("="))
        for chunk, part in self._chunks([bounds[letter] for letter in self.letters]):
            at = dict(zip(self.letters, part, strict=True))
            voxels = self._read_chunk(chunk, part)
            voxels = voxels.transpose([self.letters.index(letter) for letter in "tcxyz" if letter in self.letters])
            voxels = voxels[0] if "t" in self.letters else voxels
            place = [slice(at[a].start - bounds[a][0], at[a].stop - bounds[a][0]) for a in "cxyz" if a in at]
            result[tuple(place) if "c" in at else (slice(None), *place)] = voxels
        return result

    def _chunks(self, bounds: list[tuple[int, int]]) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
        """Yield the number of each file of a box along each axis, and the part of the array that is wanted of it."""
        sides = [
            [
                (number, slice(max(start, number * size), min(stop, (number + 1) * size)))
                for number in range(start // size, -(-stop // size))
            ]
            for (start, stop), size in zip(bounds, self.files, strict=True)
        ]
        for chunk in itertools.product(*sides):
            numbers, part = zip(*chunk, strict=True)
            yield numbers, part

    def _read_chunk(self, numbers: tuple[int, ...], part: tuple[slice, ...]) -> NDArray[Any]:
        """Read the part of the array that lies in one file.

        Raises:
            InputError: the file is damaged, or a link leads out of the image's folder.
        """
        path = inside(self._root, self.folder / self.array.metadata.encode_chunk_key(numbers))
        try:
            if path.exists() or path.is_symlink():
                self._check_complete(path)
            return np.asarray(self.array[part])
        except MemoryError:
            raise
        except Exception as error:  # Each codec has its own exceptions.
            raise InputError(
                f"{path}: the chunk cannot be read ({error}); it is damaged or incomplete, copy the image again"
            ) from error

    def _check_complete(self, path: Path) -> None:
        """Refuse incomplete files that zarr takes for empty ones, or reads beyond their end.

        Raises:
            OSError, ValueError: no file, or incomplete.
        """
        size = path.stat().st_size
        if not path.is_file():
            raise ValueError("it is no file")
        if self.array.shards is None:
            if _codecs(self._metadata)[-1] == "blosc":
                with path.open("rb") as file:
                    (stored,) = struct.unpack_from("<I", file.read(16).ljust(16, b"\0"), 12)
                if stored != size:
                    raise ValueError(f"{size} bytes, expected {stored}")
            return
        shard = cast(Any, self._metadata["codecs"])[0]["configuration"]
        count = math.prod(self.array.shards) // math.prod(self.array.chunks)
        checksum = 4 * any(codec["name"] == "crc32c" for codec in shard["index_codecs"])
        start = 0 if shard["index_location"] == "start" else size - 16 * count - checksum
        if start < 0 or start + 16 * count + checksum > size:
            raise ValueError(f"{size} bytes, too few for the index of a shard with {count} chunks")
        index = np.fromfile(path, "<u8", 2 * count, offset=start).reshape(count, 2)
        offset, length = index[(index != np.iinfo(np.uint64).max).any(axis=1)].T
        if ((offset > size) | (length > size - np.minimum(offset, size)) | (length == 0)).any():
            raise ValueError(f"{size} bytes, but the index of the shard has chunks beyond them")


class OmeZarrSource:
    """One image of an OME-Zarr folder: of one series, at one point in time, at one level of its pyramid.

    ``pyramid.choose_level`` says which level it is.

    Attributes:
        geometry: the grid of the level that is used.
        chunk: the sides of what is decoded at once, in voxels along X, Y, Z.
        notes: what to tell a person: a missing voxel size or unit, and the level if it isn't the finest.
        image: the metadata.
        levels: of the pyramid, the finest first.
        level: the number of the one that is used.
        time: the point in time.
    """

    def __init__(self, path: Path, wanted: Sequence[float] | None = None) -> None:
        """Open the image without reading voxels.

        Args:
            path: the folder; for one of several images in it, ``folder / NAME`` with a name of ``images_in``.
            wanted: take the level by this spacing in mm along X, Y, Z, however many bytes it has. None: as the server
                does, whose images are held in memory.

        Raises:
            InputError: no such image, one of several without a name, another version or layout, 2-D, unknown axes or
                units, types or codecs that can't be used, damaged metadata, Python older than 3.11.
        """
        self.path = path
        root, name = (path, "") if path.is_dir() else (path.parent, path.name)
        images = _images_by_name(root)
        if name not in images:
            found, names = f"no image {name!r}" if name else f"{len(images)} images", ", ".join(filter(None, images))
            raise InputError(f"{root}: {found}; give {f'{root}/NAME with one of {names}' if names else root}")
        self.image, self.time = images[name]
        datasets = self.image.multiscale.datasets
        has_scale = all(any(step.type == "scale" for step in data.coordinateTransformations) for data in datasets)
        # Without scales nobody knows how the levels lie over each other.
        levels = [Level(root, self.image, number) for number in range(len(datasets) if has_scale else 1)]
        self.levels = tuple(sorted(levels, key=lambda level: math.prod(level.along(level.scale))))
        units, notes = self._units()
        spacings = [level.along(level.scale) * units for level in self.levels]
        if wanted is None:
            sizes = [math.prod(level.shape) * level.channels * level.array.dtype.itemsize for level in self.levels]
            self.level = choose_level(spacings, sizes)
        else:
            self.level = coarsest(spacings, wanted)
        level = self.levels[self.level]
        x, y, z = (level.array.chunks[level.letters.index(letter)] for letter in "xyz")
        self.chunk = x, y, z
        affine = np.diag([*level.along(level.scale) * units, 1.0])
        affine[:3, 3] = level.along(level.translation) * units
        if not np.isfinite(affine).all() or np.diag(affine).min() < np.finfo(float).tiny:
            raise InputError(
                f"{path}: the scale {level.scale.tolist()} can't be used; expected usual numbers, correct it"
            )
        dtype = level.array.dtype.newbyteorder("=")
        self.geometry = Geometry(level.shape, LPS_TO_RAS @ affine, level.channels, dtype, name=str(path))
        self.notes = (*notes, *level_notes(self.geometry, self.level))

    @classmethod
    def images_in(cls, path: Path) -> tuple[str, ...]:
        """Return the names of the images in a folder with several of them, else nothing.

        Names are e.g. ``t0003``, ``series1`` or ``series1-t0003``.

        Raises:
            InputError: as the class.
        """
        return tuple(filter(None, _images_by_name(path)))

    def read(self, box: Box | None = None) -> NDArray[Any]:
        """Read the voxels of a box (C, X, Y, Z), or all of them, from the chunks that it touches.

        Raises:
            InputError: a chunk is damaged, or a link leads out of the folder.
            MemoryError: there is not enough memory.
        """
        return self.levels[self.level].read(box, self.time)

    def working_memory(self, box: Box | None = None) -> int:
        """Return the bytes of the chunks, or of the part of a shard, that are in memory at a time."""
        return self.levels[self.level].in_flight(box)

    def _units(self) -> tuple[NDArray[np.float64], list[str]]:
        """Return the millimetres of the units along X, Y, Z, and what to tell a person of them.

        Raises:
            InputError: a unit is unknown.
        """
        axes, path = {axis.letter: axis for axis in self.image.multiscale.axes}, self.path
        units = [millimetres(path, axes[letter]) for letter in "xyz"]
        finest = self.levels[0]
        if units == [None] * 3 and (finest.along(finest.scale) == 1).all():
            return np.array(size_without_metadata() or (1.0, 1.0, 1.0)), [note_without_metadata(path)]
        if None not in units:
            return np.array(units, float), []
        # Programs that leave the unit out took the numbers from OME-XML, whose unit is the micrometre.
        note = f"{path}: the file gives the size of its voxels without a unit; the numbers count as micrometres"
        return np.array([1e-3 if unit is None else unit for unit in units]), [note]


def _images_by_name(root: Path) -> dict[str, tuple[Image, int]]:
    """Return the images of a folder and their points in time, by their names; a single one has an empty name.

    Raises:
        InputError: as ``OmeZarrSource``.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; check the path")
    series = images_of(root)
    images = {}
    for number, of_series in enumerate(series):
        for image in of_series:
            times = Level(root, image, 0).sizes.get("t", 1)
            if times > _MOST_TIMES:
                raise InputError(f"{image.group}: {times} points in time; expected at most {_MOST_TIMES}")
            for time in range(times):
                parts = [f"series{number}"] * (len(series) > 1) + [f"image{image.number}"] * (len(of_series) > 1)
                images["-".join(parts + [f"t{time:04}"] * (times > 1))] = image, time
    return images


def _open_array(root: Path, folder: Path, zarr_format: int) -> "zarr.Array[Any]":
    """Open an array by zarr.

    Raises:
        InputError: no zarr, no array, damaged, types or codecs that can't be used.
    """
    try:
        import zarr
    except ImportError as error:
        raise InputError(
            f"{root}: OME-Zarr needs Python 3.11 or newer and its package zarr, and this is Python "
            f"{platform.python_version()}; install the software there, or save the image as .nrrd"
        ) from error
    for name in ("zarr.json", ".zarray", ".zattrs"):
        inside(root, folder / name)
    try:
        store = zarr.storage.LocalStore(folder, read_only=True)
        array = zarr.open_array(store, mode="r", zarr_format=cast(Any, zarr_format))
        codecs, dtype = _codecs(array.metadata.to_dict()), array.dtype
    except Exception as error:  # Zarr has an exception for each thing that can be wrong.
        raise InputError(
            f"{folder}: no Zarr array that can be read ({error}); it is missing or damaged, copy the image again"
        ) from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise InputError(f"{folder}: values of type {dtype}; expected integers or real numbers of at most 64 bits")
    if not set(codecs) <= set(_CODECS):
        raise InputError(f"{folder}: stored by the codecs {', '.join(codecs)}; expected only {', '.join(_CODECS)}")
    return array


def _codecs(metadata: dict[str, Any]) -> list[str]:
    """Return the names of an array's codecs in the order in which they encode, also those within shards."""
    if "codecs" not in metadata:
        stages = [*(metadata.get("filters") or ()), metadata.get("compressor")]
        return ["bytes", *(stage["id"] for stage in stages if stage is not None)]
    names = []
    for codec in metadata["codecs"]:
        settings = codec.get("configuration", {})
        within = [*settings.get("codecs", ()), *settings.get("index_codecs", ())]
        names += [codec["name"], *(_codecs({"codecs": within}) if within else ())]
    return names
