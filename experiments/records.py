"""The record of a finished run, and the segmented slice that it keeps."""

import base64
import zlib
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from lib.core.annotation.slices import AnnotatedSlice


class ShownSlice(TypedDict):
    """A segmented slice.

    ``volume``, ``axis`` and ``index``: its place. ``shape``: its size in voxels. ``labels``: its voxels, compressed;
    ``shown_labels`` unpacks them.
    """

    volume: str
    axis: int
    index: int
    shape: list[int]
    labels: str


class RunRecord(TypedDict):
    """The result of a finished run, as its JSON file holds it.

    ``settings``: everything that the result depends on, except the software. ``iou``: by class, None for a class that
    is neither in the truth nor predicted. ``counts``: test voxels by true class (rows) and predicted class (columns), 0
    being background. ``labelled_percent``: share of annotated voxels in the training volumes. ``seconds``: duration of
    the training. ``precision``: floating-point format of the training steps, None for other software. ``machine`` and
    ``commit``: several where a run was continued by others.
    """

    key: str
    table: str
    row: str
    method: str
    seed: int
    mean_iou: float | None
    iou: dict[str, float | None]
    counts: list[list[int]]
    labelled_percent: float
    seconds: float
    precision: str | None
    machine: str
    commit: str
    date: str
    shown: ShownSlice
    settings: dict[str, Any]


def pack_slice(name: str, place: AnnotatedSlice, labels: NDArray[np.uint8]) -> ShownSlice:
    """Pack a segmented slice for a record.

    Args:
        name: of the volume.
        place: the slice.
        labels: the two other axes of (X, Y, Z), 0 background, 1 … K foreground.
    """
    packed = base64.b64encode(zlib.compress(np.ascontiguousarray(labels).tobytes(), 9)).decode()
    return {"volume": name, "axis": place.axis, "index": place.index, "shape": list(labels.shape), "labels": packed}


def shown_labels(record: RunRecord) -> NDArray[np.uint8]:
    """Return the labels of the slice that a record keeps, see ``pack_slice``."""
    shown = record["shown"]
    values = np.frombuffer(zlib.decompress(base64.b64decode(shown["labels"])), dtype=np.uint8)
    return values.reshape(shown["shape"])
