import torch

from lib.core.network.crop import centre_crop


def test_the_middle_is_cut_out_also_in_two_dimensions() -> None:
    """Against a plain slice, and its gradient against finite differences."""
    features = torch.rand(1, 2, 5, 6, 4, dtype=torch.float64, requires_grad=True)
    assert torch.equal(centre_crop(features, (3, 2, 4)), features[:, :, 1:4, 2:4])
    assert torch.autograd.gradcheck(lambda given: centre_crop(given, (3, 2, 4)), (features,))
    flat = torch.rand(1, 2, 7, 6)
    assert torch.equal(centre_crop(flat, (3, 4)), flat[:, :, 2:5, 1:5])


def test_channels_stay_last_in_memory_both_ways() -> None:
    features = torch.rand(1, 8, 6, 6, 6).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    middle = centre_crop(features, [4, 4, 4])
    assert middle.is_contiguous(memory_format=torch.channels_last_3d)
    middle.square().sum().backward()
    assert features.grad is not None
    assert features.grad.is_contiguous(memory_format=torch.channels_last_3d)
