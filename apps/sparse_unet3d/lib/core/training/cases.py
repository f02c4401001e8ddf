"""The volumes to train on with their annotations, and checks that a network can learn from them."""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.volumes.volume import Volume


@dataclass(frozen=True, eq=False)
class TrainingCase:
    """A volume with its annotation.

    Attributes:
        id: of the image; each case has another.
        volume: the image.
        annotation: (X, Y, Z) uint8 on the volume's grid, 0 unlabelled, 1 … K foreground, K+1 background.

    Raises:
        InputError: the annotation has another shape than the volume, or another data type.
    """

    id: str
    volume: Volume
    annotation: NDArray[np.uint8]

    def __post_init__(self) -> None:
        found, expected = self.annotation, self.volume.shape
        if found.shape != expected or found.dtype != np.uint8:
            raise InputError(
                f"training: the annotation of image {self.id!r} is {found.dtype} of shape {found.shape}; expected "
                f"uint8 of shape {expected}, a value for each voxel of the image"
            )


def check_painted(painted: Collection[str], scheme: LabelScheme) -> None:
    """Refuse annotations from which no network can learn.

    Args:
        painted: names of the classes that have voxels in any annotation.
        scheme: the label scheme.

    Raises:
        InputError: nothing annotated, a single class, or no background.
    """
    if not painted:
        raise InputError("training: nothing is annotated yet; paint some slices, submit them and train again")
    if len(painted) == 1:
        (only,) = painted
        others = ", ".join(name for name in scheme.classes if name != only)
        raise InputError(
            f"training: only the class {only!r} is annotated, so there is nothing to tell it from; "
            f"paint some of {others} as well, submit and train again"
        )
    if scheme.background not in painted:
        raise InputError(
            f"training: no voxel of {scheme.background} is annotated in any image, and a model that sees none takes "
            f"everything for {' or '.join(scheme.foreground)}; paint {scheme.background} in some slices too, submit "
            "and train again. If everything that you left unpainted in annotated slices is "
            f"{scheme.background}, start the server with --conf unpainted background"
        )


def check_cases(cases: Sequence[TrainingCase], scheme: LabelScheme) -> None:
    """Refuse cases that can't be trained on together.

    Raises:
        InputError: as ``check_painted``, values that are no class, two cases with one id, or different numbers of
            channels.
    """
    found = {value for case in cases for value in np.unique(case.annotation).tolist()}
    if strange := found.difference(range(scheme.background_value + 1)):
        raise InputError(
            f"training: annotations have voxels of value {min(strange)}; expected 0 (unlabelled) to "
            f"{scheme.background_value} ({scheme.background})"
        )
    if twice := [name for name, count in Counter(case.id for case in cases).items() if count > 1]:
        raise InputError(f"training: {twice[0]!r} is the id of several cases; give each image another")
    check_painted([name for value, name in enumerate(scheme.classes, start=1) if value in found], scheme)
    first = cases[0]
    for case in cases[1:]:
        if case.volume.channels != first.volume.channels:
            raise InputError(
                f"training: image {case.id!r} has {case.volume.channels} channel(s), {first.id!r} has "
                f"{first.volume.channels}; put images recorded in different ways into different folders"
            )


def digest(cases: Sequence[TrainingCase]) -> str:
    """Return a text that is the same for the same annotations of the same images."""
    found = hashlib.sha256()
    for case in cases:
        found.update(repr((case.id, case.volume.channels, case.volume.shape, case.volume.spacing)).encode())
        found.update(case.annotation.tobytes())
    return found.hexdigest()
