"""A box of a larger image in a file of its own: where it comes from, and how the whole is scaled."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from lib.core.errors import InputError

from .intensity import Range

FIELD = "sparse_unet3d_crop"
"""Entry of an NRRD header with the ``Crop`` as JSON."""


@dataclass(frozen=True)
class Crop:
    """Where a box comes from.

    Attributes:
        image: name of the larger image.
        level: number of the level of its pyramid, 0 for the finest.
        start: the first voxel of the box in it, along X, Y, Z.
        ranges: of the intensities of each channel of the larger image. The box is scaled by them, so that a network
            sees the same values in the box as in the whole.
    """

    image: str
    level: int
    start: tuple[int, int, int]
    ranges: tuple[Range, ...]

    def to_text(self) -> str:
        """Return JSON for the header of the box's file."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str, path: Path, channels: int) -> "Crop":
        """Read what ``to_text`` returned.

        Args:
            text: the entry of the header.
            path: the file, for messages.
            channels: number of its channels.

        Raises:
            InputError: damaged, or of another number of channels.
        """
        try:
            value = json.loads(text)
            ranges = tuple(Range(float(one["low"]), float(one["high"])) for one in value["ranges"])
            x, y, z = map(int, value["start"])
            crop = cls(str(value["image"]), int(value["level"]), (x, y, z), ranges)
            if len(ranges) != channels:
                raise ValueError(f"{len(ranges)} ranges for {channels} channels")
            if not all(-math.inf < one.low <= one.high < math.inf for one in ranges):
                raise ValueError("impossible ranges")
            if not crop.image.isprintable() or min(crop.level, *crop.start) < 0:
                raise ValueError("impossible origin")
        except (ArithmeticError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: the entry {FIELD} of the header is damaged ({type(error).__name__}: {error}); make the crop "
                "again, or remove the entry, and the image is one of its own"
            ) from error
        return crop
