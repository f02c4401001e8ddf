"""Makes a project of a dataset of nnU-Net v2, and a dataset of a project."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from lib.core.errors import InputError
from lib.core.files import new_folder, write_json
from lib.core.labels import UNLABELLED
from lib.core.volumes.formats import FORMATS, ending_of, file_of
from lib.core.volumes.grids import onto_grid
from lib.core.volumes.reading import read_geometry, read_label_map
from lib.core.volumes.volume import Affine
from lib.server.store.versions import VersionStore

from .errors import saying_what_failed
from .nnunet_dataset import DESCRIPTION, ENDINGS, IMAGES, LABELS, Case, Dataset, describe, read_dataset

CLIENT = "nnU-Net"
"""Who made the imported annotations."""

_NAME = re.compile(r"Dataset[0-9]{3}_.+")
"""Name of the folder of a dataset, as nnU-Net wants it."""


def import_dataset(folder: Path, studies: Path, background: str, ignore: int | None) -> str:
    """Make a new studies folder of a dataset. It appears when all of it is there.

    Args:
        folder: the dataset; see ``read_dataset`` for ``background`` and ``ignore``.
        studies: the new folder.

    Returns:
        What was done, and how to start the server.

    Raises:
        InputError: ``studies`` isn't empty, the dataset can't be used, or the disk failed.
    """
    with saying_what_failed(studies), new_folder(studies) as beside:
        dataset = read_dataset(folder, background, ignore)
        for case in _tracked(dataset.cases.values(), "Copying"):
            for file in case.files:
                shutil.copyfile(file, beside / file.name)
        store = VersionStore(str(beside), dataset.scheme)
        annotated = 0
        for name, case in _tracked(dataset.cases.items(), "Importing"):
            annotation = _read_annotation(case, dataset)
            if annotation.any():
                store.add(name, annotation, CLIENT)
                annotated += 1
    scheme = dataset.scheme
    words = ["monailabel", "start_server", "--app", "apps/sparse_unet3d", "--studies", str(studies)]
    words += ["--host", "127.0.0.1", "--conf", "labels", ",".join(scheme.foreground)]
    words += ["--conf", "background", scheme.background]
    return (
        f"{studies}: images: {len(dataset.cases)}, with annotation: {annotated}. Start the server with\n"
        f"{subprocess.list2cmdline(words) if os.name == 'nt' else shlex.join(words)}"
    )


def _read_annotation(case: Case, dataset: Dataset) -> NDArray[np.uint8]:
    """Read a label as an annotation on the image's grid: (X, Y, Z), 0 unlabelled, 1 … K+1."""
    label = read_label_map(case.label)
    values = onto_grid(label, read_geometry(case.files[0]))
    becomes = {value: value for value in range(1, len(dataset.scheme.foreground) + 1)}
    becomes[0] = dataset.scheme.background_value
    if dataset.ignore is not None:
        becomes[dataset.ignore] = UNLABELLED
    annotation = np.empty(values.shape, np.uint8)
    for value in map(int, np.unique(values)):
        if value not in becomes:
            raise InputError(
                f"{case.label}: has voxels of value {value}, which {DESCRIPTION} doesn't name; name it there, or leave "
                f"such voxels unlabelled by --ignore {value}"
            )
        annotation[values == value] = becomes[value]
    return annotation


def export_dataset(studies: Path, target: Path) -> str:
    """Make a dataset of all annotated images in a studies folder. It appears when all of it is there.

    Args:
        studies: the folder, which a server may be using.
        target: the new folder of the dataset.

    Returns:
        What was done.

    Raises:
        InputError: ``target`` isn't empty, there is no annotation, an image or annotation can't be used, images have
            different numbers of channels, nnU-Net can't use the name of a class, or the disk failed.
    """
    store = VersionStore.existing(studies)
    names = store.get_labeled_images()
    if not names:
        raise InputError(f"{studies}: no image has an annotation, so there is nothing to export")
    endings = {ending_of(file_of(Path(store.get_image_uri(name)))) for name in names}
    ending = endings.pop() if len(endings) == 1 and endings <= set(ENDINGS) else ENDINGS[0]
    scheme = store.scheme
    # Unlabelled voxels get the highest value; the background, which is the last class here, gets 0.
    becomes = np.array([scheme.background_value, *range(1, scheme.background_value), 0], dtype=np.uint8)
    channels: dict[int, str] = {}
    is_partly_labelled = False
    with saying_what_failed(target), new_folder(target) as beside:
        for place in (IMAGES, LABELS):
            (beside / place).mkdir()
        for name in _tracked(names, "Exporting"):
            volume, annotation = store.annotated_volume(name, scheme)
            channels[volume.channels] = volume.name
            if len(channels) > 1:
                raise InputError(
                    f"{' and '.join(channels.values())} have {' and '.join(map(str, channels))} channels; nnU-Net "
                    "needs as many for all images, move one of them into a folder of its own"
                )
            for number, channel in enumerate(volume.array):
                _write(beside / IMAGES / f"{name}_{number:04d}{ending}", channel, volume.affine)
            _write(beside / LABELS / f"{name}{ending}", becomes[annotation], volume.affine)
            is_partly_labelled |= not annotation.all()
        write_json(beside / DESCRIPTION, describe(next(iter(channels)), scheme, is_partly_labelled, len(names), ending))
    left_out = len(store.list_images()) - len(names)
    said = [f"{target}: cases: {len(names)}, images without annotation, which were left out: {left_out}."]
    said.append(f"Name the channels in {target / DESCRIPTION}: nnU-Net normalises CT by other rules than the rest.")
    if not _NAME.fullmatch(target.absolute().name):
        said.append("nnU-Net wants the folder to be called DatasetXXX_NAME, with three digits; rename it.")
    return "\n".join(said)


def _write(path: Path, array: NDArray[Any], affine: Affine) -> None:
    """Write (X, Y, Z) voxels in the format of the path's ending."""
    write = FORMATS[ending_of(path)].write
    assert write
    # ITK has no 16-bit floating point numbers.
    write(path, array.astype(np.float32) if array.dtype == np.float16 else array, affine)


def _tracked(items: Iterable[Any], what: str) -> Iterable[Any]:
    items, console = list(items), Console(stderr=True)
    return track(items, what, console=console, transient=True, disable=not console.is_terminal)
