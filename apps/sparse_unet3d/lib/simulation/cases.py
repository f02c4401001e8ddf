"""Volumes with dense label maps, for simulating annotators and for scoring segmentations."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.volumes.formats import split_ending
from lib.core.volumes.grids import onto_grid
from lib.core.volumes.image_files import images_in, is_label_file
from lib.core.volumes.reading import read_label_map, read_volume
from lib.core.volumes.volume import Volume

BACKGROUND = "outside"


@dataclass(frozen=True, eq=False)
class Case:
    """A volume and its truth.

    Attributes:
        files: the file or files of the image.
        volume: the image.
        truth_file: the file of the truth.
        truth: (X, Y, Z), 0 background, 1 … K foreground.
    """

    files: tuple[Path, ...]
    volume: Volume
    truth_file: Path
    truth: NDArray[np.integer[Any]]


def read_cases(images: Path, truths: Path) -> dict[str, Case]:
    """Read all volumes that have a truth, by image id.

    Raises:
        InputError: fewer than two volumes have a truth, or a truth has another grid than its volume.
    """
    for folder in (images, truths):
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; expected images/ and labels/ with files of the same names")
    cases = {}
    # As in nnU-Net, a label map has no channel number.
    by_id = {split_ending(path.name)[0]: path for path in sorted(truths.iterdir()) if is_label_file(path.name)}
    for image_id, image in images_in(images).items():
        if truth := by_id.get(image_id):
            volume = read_volume(image.path)
            cases[image_id] = Case(image.files, volume, truth, onto_grid(read_label_map(truth), volume))
    if len(cases) < 2:
        raise InputError(
            f"{images}: {len(cases)} volumes have a label map of the same name in {truths}; give at least 2, "
            f"one to annotate and one that stays unannotated"
        )
    return cases


def label_scheme(labels: str, cases: Mapping[str, Case]) -> LabelScheme:
    """Name the classes of the truth.

    Raises:
        InputError: there are fewer names than classes; or, without names, the numbers of the classes have a gap.
    """
    files = {int(value): case.truth_file for case in cases.values() for value in np.unique(case.truth)}
    classes = max(files)
    found = f"{files[classes]}: the value {classes}"
    absent = next((value for value in range(1, classes) if value not in files), None)
    if not labels and absent:
        raise InputError(
            f"{found}, but no volume has the value {absent}; number the classes 1, 2, 3, … without gaps, or name all "
            f"{classes} by --labels"
        )
    scheme = LabelScheme.parse(labels or ",".join(f"class_{n}" for n in range(1, classes + 1)), BACKGROUND)
    if len(scheme.foreground) < classes:
        raise InputError(
            f"{found}, but --labels {labels} names {len(scheme.foreground)} classes; name all {classes}, or number the "
            "classes 1, 2, 3, …"
        )
    return scheme
