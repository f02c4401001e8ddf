"""The label scheme: which classes there are, and the numbers and names that stand for them.

=============  ==========================  =====================================
where          value                       meaning
=============  ==========================  =====================================
annotation     0                           unlabelled (weight 0 in the loss)
annotation     1 … K                       foreground class, in the scheme's order
annotation     K + 1                       background class, painted by a person
prediction     0                           background
prediction     1 … K                       foreground class
network        channel 0, 1 … K            as in a prediction
=============  ==========================  =====================================
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

UNLABELLED = 0
"""Value of a voxel that nobody painted, in an annotation."""

IGNORED = -1
"""Value of an unlabelled voxel among the network's targets."""

PREDICTED = " (predicted)"
"""Ending of the names of the model's segments, so that Slicer never replaces painted ones by them."""

ANNOTATE_HERE = "annotate here"
"""Name of the segment that marks the slices that are worth annotating next."""

RESERVED = ("background", "foreground_scribbles", "background_scribbles", ANNOTATE_HERE)
"""Names that 3D Slicer's plugin drops on submit, or that this software uses for itself."""

MOST_CLASSES = 126
"""Most foreground classes: all segments together are numbered in 8 bits."""


@dataclass(frozen=True)
class LabelScheme:
    """Foreground classes in order, and the explicit background class.

    Raises:
        InputError: no foreground class, an empty, repeated or reserved name.
    """

    foreground: tuple[str, ...]
    background: str

    def __post_init__(self) -> None:
        if not self.foreground:
            raise InputError("labels: no foreground class given; name at least one, e.g. --conf labels inside,tubule")
        if len(self.foreground) > MOST_CLASSES:
            raise InputError(f"labels: {len(self.foreground)} foreground classes; at most {MOST_CLASSES} are possible")
        seen: set[str] = set()
        for name in self.classes:
            if not name:
                raise InputError(f"labels: an empty class name among {', '.join(map(repr, self.classes))}; remove it")
            if name.lower() in RESERVED or name.endswith(PREDICTED):
                raise InputError(
                    f"labels: the class name {name!r} is reserved (3D Slicer or this software uses it for itself); "
                    f"choose another, e.g. 'outside' for the background class"
                )
            if name in seen:
                raise InputError(f"labels: the class name {name!r} is given twice; each class needs its own name")
            seen.add(name)

    @classmethod
    def parse(cls, labels: str, background: str) -> "LabelScheme":
        """Read the scheme from the texts of ``--conf labels inside,tubule`` and ``--conf background outside``."""
        return cls(tuple(name.strip() for name in labels.split(",")), background.strip())

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of all painted classes; the annotation value of the i-th is i + 1."""
        return (*self.foreground, self.background)

    @property
    def background_value(self) -> int:
        """Annotation value of the painted background: K + 1."""
        return len(self.foreground) + 1

    @property
    def predicted(self) -> tuple[str, ...]:
        """Names of the model's segments; the prediction value of the i-th is i + 1."""
        return tuple(name + PREDICTED for name in self.foreground)

    @property
    def not_paint(self) -> tuple[str, ...]:
        """Names of the segments that the server fills; what is in them is never an annotation."""
        return (*self.predicted, ANNOTATE_HERE)

    @property
    def segments(self) -> tuple[str, ...]:
        """All segment names in the order Slicer creates them: the server's first, so that paint lies over them."""
        return (*self.not_paint, *self.classes)

    def targets(self, annotation: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Turn an annotation into the network's targets, same shape: ``IGNORED``, 0 background, 1 … K foreground."""
        table = np.array([IGNORED, *range(1, len(self.foreground) + 1), 0], dtype=np.int64)
        targets: NDArray[np.int64] = table[annotation]
        return targets

    def describe(self) -> str:
        """One line for messages: ``foreground inside, tubule; background outside``."""
        return f"foreground {', '.join(self.foreground)}; background {self.background}"
