"""Soft Dice over the labelled voxels, together with cross-entropy (Milletari et al. 2016)."""

from torch import Tensor
from torch.nn import functional

from lib.core.labels import IGNORED

from .cross_entropy import weighted_cross_entropy

SMOOTHING = 1.0
"""Added to numerator and denominator, so that a class of a few voxels causes no large gradient."""


def soft_dice(logits: Tensor, targets: Tensor) -> Tensor:
    """Return 1 minus the mean soft Dice coefficient of the classes that are among the labelled voxels.

    MONAI's ``MaskedDiceLoss`` masks the logits before the softmax, which makes every class equally probable in
    unlabelled voxels instead of leaving them out.

    Args:
        logits: (N, classes, ...) network output.
        targets: (N, ...) int64 class of each voxel, ``IGNORED`` where unlabelled.

    Returns:
        Scalar in 0 … 1; 0 without any labelled voxel. Unlabelled voxels get a gradient of exactly zero.
    """
    labelled = targets != IGNORED
    if not labelled.any():
        return logits.sum() * 0.0
    probabilities = logits.movedim(1, -1)[labelled].softmax(dim=1)
    truth = functional.one_hot(targets[labelled], logits.shape[1]).to(probabilities.dtype)
    overlap = (probabilities * truth).sum(dim=0)
    sizes = probabilities.sum(dim=0) + truth.sum(dim=0)
    dice = (2 * overlap + SMOOTHING) / (sizes + SMOOTHING)
    return 1 - dice[truth.any(dim=0)].mean()


def dice_and_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Return the sum of ``soft_dice`` and ``weighted_cross_entropy``; the arguments are those of the latter."""
    return soft_dice(logits, targets) + weighted_cross_entropy(logits, targets, weights)
