"""OME-Zarr folders, written by zarr and plain JSON as the NGFF specification says, without the app's code."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

AXES = {
    "t": {"name": "t", "type": "time", "unit": "second"},
    "c": {"name": "c", "type": "channel"},
    **{letter: {"name": letter, "type": "space", "unit": "micrometer"} for letter in "zyx"},
}


def multiscale(letters: str, steps: Sequence[Sequence[dict[str, Any]]], version: str) -> dict[str, Any]:
    """One entry of ``multiscales``, with the transformations of each level."""
    return {
        **({"version": "0.4"} if version == "0.4" else {}),
        "axes": [dict(AXES[letter]) for letter in letters],
        "datasets": [{"path": str(i), "coordinateTransformations": list(of_level)} for i, of_level in enumerate(steps)],
    }


def scale_of(*scale: float) -> dict[str, Any]:
    return {"type": "scale", "scale": list(scale)}


def translation_of(*translation: float) -> dict[str, Any]:
    return {"type": "translation", "translation": list(translation)}


def write_attributes(folder: Path, content: dict[str, Any], version: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if version == "0.4":
        (folder / ".zgroup").write_text('{"zarr_format": 2}')
        (folder / ".zattrs").write_text(json.dumps(content))
    else:
        ome = {"ome": {"version": "0.5", **content}}
        (folder / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": ome}))


def read_attributes(folder: Path, version: str) -> dict[str, Any]:
    if version == "0.4":
        content = json.loads((folder / ".zattrs").read_text())
    else:
        content = json.loads((folder / "zarr.json").read_text())["attributes"]["ome"]
    assert isinstance(content, dict)
    return content


def write_array(folder: Path, array: NDArray[Any], letters: str, version: str, **options: Any) -> None:
    """Write an array by zarr, in chunks of 4 voxels along each axis of space if nothing else is said."""
    import zarr

    chunks = tuple(1 if letter in "tc" else 4 for letter in letters)
    zarr.create_array(
        zarr.storage.LocalStore(folder),
        zarr_format=2 if version == "0.4" else 3,
        dimension_names=None if version == "0.4" else letters,
        chunk_key_encoding={"name": "v2" if version == "0.4" else "default", "separator": "/"},
        **{"data": array, "chunks": chunks, **options},
    )


def save(
    folder: Path,
    levels: Sequence[NDArray[Any]],
    letters: str,
    version: str,
    scales: Sequence[Sequence[float]] | None = None,
    **options: Any,
) -> Path:
    """Write an image; the scale is 0.5 along each axis of the first level, if nothing else is said."""
    steps = [[scale_of(*scale)] for scale in scales or [[0.5 * 2**i] * len(letters) for i in range(len(levels))]]
    write_attributes(folder, {"multiscales": [multiscale(letters, steps, version)]}, version)
    for number, level in enumerate(levels):
        write_array(folder / str(number), level, letters, version, **options)
    return folder


def numbered(*shape: int, dtype: str = "uint16") -> NDArray[Any]:
    return np.random.default_rng(7).integers(1, 250, shape).astype(dtype)
