"""The datastore as the server opens it, and labels to put into it."""

import json
import os
import threading
import traceback
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import HTTPException
from numpy.typing import NDArray

from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.server.conf import Conf
from lib.server.store.datastore import AnnotationStore, SubmittedLabel
from lib.server.tasks.trainer import Trainer
from serving import SHAPE, as_slicer_sends, paint, write_label

SCHEME = LabelScheme(("inside", "tubule"), "outside")


def open_store(studies: Path, scheme: LabelScheme = SCHEME, watch: bool = False, **options: object) -> AnnotationStore:
    """Open the datastore as the server does."""
    store = AnnotationStore(str(studies), scheme, **options)  # type: ignore[arg-type]
    store.serve(watch=watch)
    return store


def submit(
    store: AnnotationStore,
    folder: Path,
    annotation: NDArray[np.uint8],
    image: str = "a",
    affine: NDArray[np.float64] | None = None,
) -> SubmittedLabel:
    """Submit as 3D Slicer does."""
    label, params = as_slicer_sends(annotation)
    file = write_label(folder / f"upload-{threading.get_ident()}.nii.gz", label, affine)
    return store.save_label(image, str(file), "final", params)


def index_of(studies: Path) -> dict[str, Any]:
    """Return the images in the index, with what the journal says has changed since."""
    objects: dict[str, Any] = json.loads((studies / "datastore_v2.json").read_text())["objects"]
    for line in (studies / "datastore_v2.journal").read_text().splitlines():
        for name, change in json.loads(line).get("set", {}).items():
            if change is None:
                del objects[name]
                continue
            entry = objects.setdefault(name, {"labels": {}})
            entry["image"] = change.get("image", entry.get("image"))
            labels = {**entry["labels"], **change.get("labels", {})}
            entry["labels"] = {tag: label for tag, label in labels.items() if label is not None}
    return objects


def lose_index(studies: Path) -> None:
    (studies / "datastore_v2.json").unlink()
    (studies / "datastore_v2.journal").unlink()


def label_info(studies: Path, tag: str, image: str = "a") -> dict[str, Any]:
    """Return the label info in the index."""
    info: dict[str, Any] = index_of(studies)[image]["labels"][tag]["info"]
    return info


def in_child(work: Callable[[], None]) -> int:
    """Do something in a forked process; return its exit code, 1 after an exception."""
    if not (child := os.fork()):
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def refusal(status: int, *words: str) -> Any:
    """Expect what the server answers with this status, and with these words in this order."""
    if status == HTTPStatus.BAD_REQUEST:
        return pytest.raises(InputError, match="(?s)" + ".*".join(words))
    return pytest.raises(HTTPException, match="(?s)" + ".*".join([str(status), *words]))


def mask() -> NDArray[np.uint8]:
    """A dense mask as in nnU-Net: 0 is the background."""
    dense = np.zeros(SHAPE, np.uint8)
    dense[5:15, 4:14, 3:9] = 2
    dense[8:12, 7:11, 5:7] = 1
    return dense


def put(studies: Path, array: NDArray[np.uint8], image: str = "a") -> Path:
    (studies / "labels/final").mkdir(parents=True, exist_ok=True)
    return write_label(studies / f"labels/final/{image}.nii.gz", array)


def trainer(studies: Path) -> Trainer:
    return Trainer(Conf.parse({"width": "2"}, str(studies)))


def corrected() -> NDArray[np.uint8]:
    """The paint with a voxel of another class."""
    other = paint()
    other[10, 9, 6] = 2
    assert not (other == paint()).all()
    return other
