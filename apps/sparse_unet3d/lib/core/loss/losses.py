"""All losses by name."""

from collections.abc import Callable

from torch import Tensor

from lib.core.errors import check_one_of

from .cross_entropy import weighted_cross_entropy
from .dice import dice_and_cross_entropy

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Logits (N, classes, ...), targets (N, ...) int64 with ``IGNORED`` where unlabelled, weights (classes,) → scalar.

Unlabelled voxels don't contribute and get a gradient of exactly zero.
"""

LOSSES: dict[str, Loss] = {
    "cross_entropy": weighted_cross_entropy,
    "dice_cross_entropy": dice_and_cross_entropy,
}


def loss_named(name: str) -> Loss:
    """Return a loss by its name.

    Raises:
        InputError: there is no such loss.
    """
    check_one_of("loss", name, LOSSES)
    return LOSSES[name]
