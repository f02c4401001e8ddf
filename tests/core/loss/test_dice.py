"""Soft Dice on labelled voxels, against plain numpy and MONAI where everything is labelled."""

import numpy as np
import torch
from monai.losses import DiceLoss

from lib.core.labels import IGNORED
from lib.core.loss.cross_entropy import weighted_cross_entropy
from lib.core.loss.dice import dice_and_cross_entropy, soft_dice


def example() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 6, 5, 4, requires_grad=True)
    targets = torch.randint(0, 3, (1, 6, 5, 4))
    targets[:, 2:] = IGNORED
    return logits, targets


def test_only_labelled_voxels_and_their_classes_count() -> None:
    logits, targets = example()
    targets[targets == 2] = 1
    probabilities = logits.softmax(dim=1).detach().numpy()
    dice = []
    for value in (0, 1):
        inside = targets.numpy()[0] != IGNORED
        p, t = probabilities[0, value][inside], (targets.numpy()[0] == value)[inside]
        dice.append((2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1))
    np.testing.assert_allclose(float(soft_dice(logits, targets)), 1 - np.mean(dice), rtol=1e-5)


def test_it_agrees_with_monai_where_all_is_labelled() -> None:
    logits, _ = example()
    targets = torch.arange(3).repeat(40).view(1, 6, 5, 4)
    monai = DiceLoss(to_onehot_y=True, softmax=True, smooth_nr=1, smooth_dr=1)
    torch.testing.assert_close(soft_dice(logits, targets), monai(logits, targets[:, None]))


def test_unlabelled_voxels_have_no_gradient() -> None:
    logits, targets = example()
    dice_and_cross_entropy(logits, targets, torch.ones(3)).backward()
    assert logits.grad is not None
    assert (logits.grad[:, :, 2:] == 0).all()
    assert (logits.grad[:, :, :2] != 0).all()


def test_without_any_labelled_voxel_it_is_zero() -> None:
    logits, targets = example()
    loss = soft_dice(logits, torch.full_like(targets, IGNORED))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_both_are_added() -> None:
    logits, targets = example()
    weights = torch.tensor([0.5, 1.0, 2.0])
    both = dice_and_cross_entropy(logits, targets, weights)
    torch.testing.assert_close(both, soft_dice(logits, targets) + weighted_cross_entropy(logits, targets, weights))
