import numpy as np
import pytest
import torch

from lib.core.network.repetition import cropped, extended


@pytest.mark.parametrize(
    ("starts", "sizes"),
    [((0, 0, 0), (5, 3, 2)), ((1, 0, 1), (3, 3, 1)), ((4, 2, 0), (9, 1, 7)), ((40, 16, 4), (5, 3, 2))],
)
def test_a_box_is_that_of_the_repeated_features(starts: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    """Against numpy's tiling, and its gradient against finite differences."""
    features = torch.rand(1, 2, 5, 3, 2, dtype=torch.float64, requires_grad=True)
    repeated = np.tile(features.detach().numpy(), (1, 1, 12, 12, 12))
    expected = repeated[(..., *(slice(start, start + size) for start, size in zip(starts, sizes, strict=True)))]
    np.testing.assert_array_equal(cropped(features, starts, sizes).detach().numpy(), expected)
    assert torch.autograd.gradcheck(lambda given: cropped(given, starts, sizes), (features,))


def test_rows_are_appended_from_the_first_on_also_in_two_dimensions() -> None:
    features = torch.arange(6.0).view(1, 1, 3, 2)
    assert torch.equal(extended(features, [4, 0])[0, 0, :, 0], torch.tensor([0.0, 2, 4, 0, 2, 4, 0]))
    assert extended(features, [0, 0]) is features


def test_channels_stay_last_in_memory() -> None:
    features = torch.rand(1, 8, 6, 6, 6).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    box = extended(features, [4, 4, 4])
    assert box.is_contiguous(memory_format=torch.channels_last_3d)
    box.square().sum().backward()
    assert features.grad is not None
    assert features.grad.is_contiguous(memory_format=torch.channels_last_3d)
