"""Softmax with weighted cross-entropy over the labelled voxels (sections 2 and 3.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lib.core.labels import IGNORED


def class_weights(counts: Sequence[int], exponent: float) -> list[float]:
    """Return class weights that are small for frequent classes and large for rare ones.

    Args:
        counts: labelled voxels of each network class, over all annotations.
        exponent: with 1 the weights make up for all differences in frequency; with 0 they are all equal. Tiles that are
            centred on all classes equally often already make up for some of them.

    Returns:
        One weight per class, 1 on average over the labelled voxels; 0 for a class that has none.
    """
    raw = [count**-exponent if count else 0.0 for count in counts]
    mean = sum(weight * count for weight, count in zip(raw, counts, strict=True)) / sum(counts)
    return [weight / mean for weight in raw]


def weighted_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of the cross-entropy over the labelled voxels.

    Args:
        logits: (N, classes, ...) network output.
        targets: (N, ...) int64 class of each voxel, ``IGNORED`` where unlabelled.
        weights: (classes,) weight of each class.

    Returns:
        Scalar ``sum(w * -log softmax) / sum(w)``. Unlabelled voxels have weight 0: they have no part in either sum and
        get a gradient of exactly zero. Without any labelled voxel the loss is 0, with zero gradients.
    """
    total = functional.cross_entropy(logits, targets, weight=weights, ignore_index=IGNORED, reduction="sum")
    norm = torch.where(targets == IGNORED, 0.0, weights[targets.clamp(min=0)]).sum()
    return total / norm.clamp(min=torch.finfo(norm.dtype).tiny)
