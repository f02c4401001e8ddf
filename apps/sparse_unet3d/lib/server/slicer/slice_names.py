"""Names of slices for people: the axis, the view of 3D Slicer that shows them, and the number that Slicer gives them.

Files and programs number slices in the order of the file; what a person reads must agree with the screen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel

from lib.core.volumes.volume import Placed
from lib.server.records import SliceNamesRecord

_DIRECTIONS = {
    "R": "L-R, sagittal",
    "L": "R-L, sagittal",
    "A": "P-A, coronal",
    "P": "A-P, coronal",
    "S": "I-S, axial",
    "I": "S-I, axial",
}
"""Name of an axis that runs towards R, L, …: its direction, and the view of its slices."""

_OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))

_SHORTEST_RANGE = 3
"""The fewest neighbouring slices that are written as a range."""


@dataclass(frozen=True)
class SliceNames:
    """Names of the slices of one image.

    Attributes:
        axes: name of each axis, e.g. ``axis 2 (I-S, axial)``; for an oblique image, with the nearest directions.
        reversed_length: length of the last axis if 3D Slicer counts its slices from the other end, else None.
    """

    axes: tuple[str, str, str] = ("axis 0", "axis 1", "axis 2")
    reversed_length: int | None = None

    @classmethod
    def of(cls, volume: Placed) -> "SliceNames":
        """Name the slices of an image as 3D Slicer shows it, even if Slicer misreads its directions."""
        x, y, z = nibabel.aff2axcodes(volume.affine if volume.slicer_affine is None else volume.slicer_affine)
        towards = (x, y, _OPPOSITE[z] if volume.slicer_reverses else z)
        first, second, third = (f"axis {axis} ({_DIRECTIONS[code]})" for axis, code in enumerate(towards))
        return cls((first, second, third), volume.shape[2] if volume.slicer_reverses else None)

    def by_axis(self, slices: Sequence[Sequence[int]]) -> dict[str, str]:
        """Write lists of slices for people.

        Args:
            slices: for each axis the sorted indices, in the order of the file.

        Returns:
            By name of the axis the indices as 3D Slicer counts, e.g. ``4, 6-9``, or ``none``.
        """
        shown = [list(indices) for indices in slices]
        if self.reversed_length is not None:
            shown[2] = [self.reversed_length - 1 - index for index in reversed(shown[2])]
        return {name: _ranges(indices) or "none" for name, indices in zip(self.axes, shown, strict=True)}

    def text(self, slices: Sequence[Sequence[int]]) -> str:
        """Write lists of slices as ``by_axis``, in one line without the axes that have none; or ``none``."""
        by_axis = self.by_axis(slices).items()
        return "; ".join(f"{name}: {numbers}" for name, numbers in by_axis if numbers != "none") or "none"

    def to_json(self) -> SliceNamesRecord:
        """Return the names as JSON."""
        return {"axes": list(self.axes), "reversed_length": self.reversed_length}

    @classmethod
    def from_json(cls, content: SliceNamesRecord) -> "SliceNames":
        """Rebuild names from ``to_json``."""
        first, second, third = content["axes"]
        return cls((first, second, third), content["reversed_length"])


def _ranges(indices: Sequence[int]) -> str:
    """Write sorted indices with commas, and neighbours as ranges."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) >= _SHORTEST_RANGE else ", ".join(map(str, run)) for run in runs)
