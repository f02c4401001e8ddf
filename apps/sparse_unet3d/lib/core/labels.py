"""The label scheme: the classes, and the numbers and names that stand for them.

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

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

UNLABELLED = 0
"""Value of a voxel that nobody painted, in an annotation."""

IGNORED = -1
"""Value of an unlabelled voxel in the network's targets."""

SEPARATORS = ";|:=\\{}[]<>，、；｜：،؛"
"""Characters of lists and mappings in notations other than that of ``--conf labels``; forbidden in class names."""

QUOTES = "\"'`´“”„‘’‚«»"
"""Quotation marks. A class name may contain them (Peyer's patch), but can't begin or end with one."""

JOINERS = "\u200c\u200d"
"""Invisible characters that some scripts need within words."""

MOST_CLASSES = 126
"""Largest number of foreground classes with which the numbers of all segments fit into 8 bits."""


@dataclass(frozen=True)
class LabelScheme:
    """The foreground classes in order, and the explicit background class.

    Attributes:
        foreground: names of the K foreground classes.
        background: name of the background class that people paint.

    Raises:
        InputError: no foreground class or too many; an empty or repeated name.
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
            if name in seen:
                raise InputError(f"labels: the class name {name!r} is given twice; each class needs its own name")
            seen.add(name)

    @classmethod
    def parse(cls, labels: str, background: str) -> "LabelScheme":
        """Read the scheme from the texts of ``--conf labels inside,tubule`` and ``--conf background outside``.

        Raises:
            InputError: as ``LabelScheme``, or a name has characters of another list notation.
        """
        # A comma in the background is refused too, since the background is a single class.
        for key, text, names in (("labels", labels, labels.split(",")), ("background", background, [background])):
            _check_names(key, text, [name.strip(" ") for name in names])
        return cls(tuple(name.strip() for name in labels.split(",")), background.strip())

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of all painted classes; the annotation value of the i-th is i + 1."""
        return (*self.foreground, self.background)

    @property
    def background_value(self) -> int:
        """Annotation value of the painted background: K + 1."""
        return len(self.foreground) + 1

    def targets(self, annotation: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Return an annotation as the network's targets, same shape: ``IGNORED``, 0 background, 1 … K foreground."""
        table = np.array([IGNORED, *range(1, len(self.foreground) + 1), 0], dtype=np.int64)
        targets: NDArray[np.int64] = table[annotation]
        return targets

    def describe(self) -> str:
        """Return one line for messages: ``foreground inside, tubule; background outside``."""
        return f"foreground {', '.join(self.foreground)}; background {self.background}"


def _check_names(key: str, text: str, names: Sequence[str]) -> None:
    """Refuse names with characters of another list notation.

    Raises:
        InputError: a name has such a character; the message gives it and the right notation.
    """
    for name in names:
        wrong = next((character for character in name if not _may_be_in_name(character, key)), None)
        wrong = wrong or next((end for end in (name[:1], name[-1:]) if end and end in QUOTES), None)
        if wrong is None and (name.count("(") != name.count(")") or (name[:1], name[-1:]) == ("(", ")")):
            wrong = "("
        if wrong is not None:
            right = "--conf labels inside,tubule" if key == "labels" else "--conf background outside"
            shown = f"{wrong!r}" if wrong.isprintable() else f"{unicodedata.name(wrong, f'U+{ord(wrong):04X}')}"
            raise InputError(
                f"--conf {key} {text!r}: the class name {name!r} has {shown} in a place where it isn't allowed; "
                f"give {'plain names, separated by commas' if key == 'labels' else 'one plain name'}, e.g. {right}; "
                f'quote a name with spaces for the shell: {right.rsplit(" ", 1)[0]} "cell wall"'
            )


def _may_be_in_name(character: str, key: str) -> bool:
    if character in SEPARATORS or (character == "," and key == "background"):
        return False
    return character.isprintable() or character in JOINERS
