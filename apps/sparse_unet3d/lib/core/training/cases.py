"""The volumes to train on with their annotations, and checks that a network can learn from them."""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from lib.core.annotation.paint import Paint
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.model.origin import PaintVersion
from lib.core.volumes.reading import read_volume
from lib.core.volumes.stored_volume import StoredVolume
from lib.core.volumes.volume import Volume


class TrainingCase:
    """A volume with its annotation.

    Attributes:
        id: of the image; each case has another.
        volume: the image, in memory or in its file.
        paint: its annotation.
        version: which version of the image's annotation that is; None if nobody keeps versions.
    """

    def __init__(
        self,
        id: str,
        volume: Volume | StoredVolume,
        annotation: NDArray[np.uint8] | Paint,
        version: PaintVersion | None = None,
    ) -> None:
        """Put a volume and its annotation together.

        Args:
            id: of the image.
            volume: the image.
            annotation: (X, Y, Z) on the volume's grid, 0 unlabelled, 1 … K foreground, K+1 background. An array must
                not change afterwards; if few voxels are labelled, only these are kept.
            version: which version of the image's annotation that is.

        Raises:
            InputError: the annotation has another shape than the volume, or another data type.
        """
        if not isinstance(annotation, Paint):
            if annotation.shape != volume.shape or annotation.dtype != np.uint8:
                raise InputError(
                    f"training: the annotation of image {id!r} is {annotation.dtype} of shape {annotation.shape}; "
                    f"expected uint8 of shape {volume.shape}, a value for each voxel of the image"
                )
            annotation = Paint(annotation)
        self.id, self.volume, self.paint, self.version = id, volume, annotation, version

    @property
    def annotation(self) -> NDArray[np.uint8]:
        """(X, Y, Z), see above; a new array if few voxels are labelled."""
        return self.paint.array()

    def load(self) -> Volume:
        """Return the image in memory.

        Raises:
            InputError: as ``read_volume``, if it is read from its file.
        """
        return self.volume if isinstance(self.volume, Volume) else read_volume(self.volume.source.path)


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
    found = {value for case in cases for value in np.flatnonzero(case.paint.voxels()).tolist()}
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
        places, values = case.paint.places()
        for array in (*places, values):
            found.update(array.tobytes())
    return found.hexdigest()
