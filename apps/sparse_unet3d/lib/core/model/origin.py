"""What a model was made from: the versions of the annotations, the seed, the software."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, order=True)
class PaintVersion:
    """A version of an image's annotation that a network has learnt from.

    Attributes:
        image: id of the image.
        version: number of the version.
        by: who submitted it; empty if that isn't known.
        time: of the submission, UTC, ISO 8601; empty if that isn't known.
        sha256: of the annotation's file as it was stored, in hexadecimal digits; empty if that isn't known.
    """

    image: str
    version: int
    by: str = ""
    time: str = ""
    sha256: str = ""


Paint = tuple[PaintVersion, ...] | None
"""All versions that a network has learnt from; None if not all of them are known."""


def together(*parts: Paint) -> Paint:
    """Return the versions in any of the parts, sorted; None if one of the parts isn't known."""
    found = set[PaintVersion]()
    for part in parts:
        if part is None:
            return None
        found.update(part)
    return tuple(sorted(found))


def paint_to_json(paint: Paint) -> list[dict[str, Any]] | None:
    """Return JSON values that ``paint_from_json`` reads back."""
    return None if paint is None else [asdict(version) for version in paint]


def paint_from_json(values: Iterable[Mapping[str, Any]] | None) -> Paint:
    """Read what ``paint_to_json`` wrote.

    Raises:
        TypeError: the values are others.
    """
    return None if values is None else tuple(PaintVersion(**version) for version in values)


@dataclass(frozen=True)
class Origin:
    """What a model was made from.

    Attributes:
        seed: of the training's randomness.
        software: versions by name, see ``software``.
        iou: IoU of each foreground class in 0 … 1 on the slices of the model's ``metric``; None for a class that isn't
            in them.
        paint: the versions of annotations that the network has learnt from, in this training and in those that it
            continued.
    """

    seed: int
    software: Mapping[str, str]
    iou: Mapping[str, float | None]
    paint: Paint

    def to_json(self) -> dict[str, Any]:
        """Return JSON values that ``from_json`` reads back."""
        return {
            "seed": self.seed,
            "software": dict(self.software),
            "iou": dict(self.iou),
            "paint": paint_to_json(self.paint),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Origin":
        """Read what ``to_json`` wrote.

        Raises:
            KeyError, TypeError: the values are others.
        """
        return cls(values["seed"], values["software"], values["iou"], paint_from_json(values["paint"]))
