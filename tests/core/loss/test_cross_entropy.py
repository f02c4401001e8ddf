import math

import numpy as np
import pytest
import torch

from lib.core.labels import IGNORED
from lib.core.loss.cross_entropy import class_weights, weighted_cross_entropy


def by_loops(logits: np.ndarray, targets: np.ndarray, weights: list[float]) -> float:
    total, norm = 0.0, 0.0
    for place in np.ndindex(targets.shape):
        if targets[place] == IGNORED:
            continue
        scores = [logits[(place[0], c, *place[1:])] for c in range(logits.shape[1])]
        probability = math.exp(scores[targets[place]]) / sum(math.exp(s) for s in scores)
        total -= weights[targets[place]] * math.log(probability)
        norm += weights[targets[place]]
    return total / norm


@pytest.mark.parametrize("shape", [(1, 4, 5, 3), (2, 6, 4)])
def test_loss_agrees_with_a_plain_loop(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(shape[0], 3, *shape[1:]))
    targets = generator.integers(-1, 3, size=shape)
    weights = [0.5, 3.0, 1.2]
    loss = weighted_cross_entropy(
        torch.tensor(logits), torch.tensor(targets), torch.tensor(weights, dtype=torch.double)
    )
    assert loss.item() == pytest.approx(by_loops(logits, targets, weights), rel=1e-9)


def test_gradient_is_exactly_zero_where_unlabelled_and_only_there() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 4, 5, 6, requires_grad=True)
    targets = torch.randint(-1, 3, (1, 4, 5, 6))
    weighted_cross_entropy(logits, targets, torch.tensor([1.0, 2.0, 3.0])).backward()
    assert logits.grad is not None
    touched = (logits.grad != 0).any(dim=1)
    assert torch.equal(touched, targets != IGNORED)


def test_tile_without_labelled_voxels_gives_zero_and_zero_gradients() -> None:
    logits = torch.randn(1, 3, 4, 4, 4, requires_grad=True)
    loss = weighted_cross_entropy(logits, torch.full((1, 4, 4, 4), IGNORED), torch.ones(3))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_full_balance_gives_each_class_the_same_influence() -> None:
    counts = [9000, 100, 900]
    influence = [w * c for w, c in zip(class_weights(counts, 1.0), counts, strict=True)]
    assert influence == pytest.approx([10000 / 3] * 3)


def test_no_balance_gives_each_voxel_the_same_influence() -> None:
    assert class_weights([9000, 100, 900], 0.0) == pytest.approx([1, 1, 1])


def test_half_balance_weighs_background_down_and_the_rare_class_up() -> None:
    background, inside, tubule = class_weights([9000, 100, 900], 0.5)
    assert background < 1 < tubule < inside


def test_class_that_is_not_annotated_has_no_weight() -> None:
    assert class_weights([50, 0, 50], 0.5) == pytest.approx([1, 0, 1])
