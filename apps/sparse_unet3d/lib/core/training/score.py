"""The IoU of a network on annotated voxels, and whether it is credibly worse than another's (paired bootstrap)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lib.core.labels import LabelScheme
from lib.core.metrics import confusion, iou_per_class, mean_iou

Part = tuple[Sequence[NDArray[np.int64]], NDArray[np.uint8], NDArray[np.uint8]]
"""Voxels: their indices along each axis (n,), their predicted labels (n,) and their annotation values (n,)."""

UNITS_ALONG_AXIS = 4
"""A slice is divided into this many units along each of its axes, since there are often only one or two slices."""

RESAMPLINGS = 1000
CREDIBLE = 0.95
"""Share of the resamplings in which a credibly worse network has the lower IoU."""


@dataclass(frozen=True, eq=False)
class Score:
    """What a network makes of annotated voxels.

    Attributes:
        counts: (units, K+1, K+1) from ``confusion``. A unit is a piece of a slice, or of what else is annotated.
        scheme: the label scheme.
    """

    counts: NDArray[np.int64]
    scheme: LabelScheme

    @classmethod
    def of(
        cls,
        parts: Iterable[Part],
        scheme: LabelScheme,
    ) -> "Score":
        """Count the voxels of slices and of what else is annotated.

        Args:
            parts: their voxels.
            scheme: the label scheme.
        """
        counts = [
            confusion(predicted[unit], annotated[unit], scheme)
            for place, predicted, annotated in parts
            for unit in _units(place)
        ]
        classes = len(scheme.classes)
        return cls(np.array(counts, dtype=np.int64).reshape(-1, classes, classes), scheme)

    @property
    def per_class(self) -> dict[str, float | None]:
        """IoU in 0 … 1 by foreground class, over all voxels together."""
        return iou_per_class(self.counts.sum(axis=0), self.scheme)

    @property
    def mean(self) -> float:
        """Mean foreground IoU, 0 … 1; 0 if there is none."""
        return mean_iou(self.per_class) or 0.0

    def is_credibly_worse_than(self, other: "Score") -> bool:
        """Tell whether another network has the higher mean IoU in nearly all resamplings of the units.

        Both networks are counted on the same units, so that what is difficult for both doesn't matter. The mean is over
        the classes that a resampling has in the annotation. The resamplings are always the same.

        Args:
            other: score of the other network on the same voxels.
        """
        if not len(self.counts):
            return False
        return bool(np.mean(self._resampled() < other._resampled()) >= CREDIBLE)

    def interval(self) -> tuple[float, float] | None:
        """Return the interval that 95 % of the mean IoUs of all resamplings are in; None without voxels."""
        if not len(self.counts):
            return None
        low, high = np.quantile(self._resampled(), [0.025, 0.975])
        return float(low), float(high)

    def _resampled(self) -> NDArray[np.float64]:
        """Return the mean IoU of each resampling of the units."""
        units = len(self.counts)
        drawn = np.random.default_rng(0).multinomial(units, np.full(units, 1 / units), size=RESAMPLINGS)
        return _mean_ious(np.tensordot(drawn, self.counts, 1))


def _units(place: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Divide voxels by where they lie; return the numbers of those in each unit."""
    number = np.zeros(len(place[0]), dtype=np.int64)
    for index in place:
        first, last = int(index.min()), int(index.max())
        number = number * UNITS_ALONG_AXIS + (index - first) * UNITS_ALONG_AXIS // (last - first + 1)
    order = np.argsort(number, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(number[order])) + 1)


def _mean_ious(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean IoU (n,) of counts (n, K+1, K+1) over the annotated foreground classes.

    A class that isn't annotated in a resampling would have IoU 0 for a network with a single voxel of it, and no IoU
    for another one.
    """
    both = np.diagonal(counts, axis1=1, axis2=2)[:, 1:]
    annotated, predicted = counts.sum(axis=2)[:, 1:], counts.sum(axis=1)[:, 1:]
    iou = both / np.maximum(annotated + predicted - both, 1)
    known = annotated > 0
    return np.asarray((known * iou).sum(axis=1) / np.maximum(known.sum(axis=1), 1))
