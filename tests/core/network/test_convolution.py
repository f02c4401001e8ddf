"""The convolutions against torch's own in double precision, which oneDNN doesn't compute."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from lib.core.network.convolution import LEAST_FOR_ONEDNN, Convolution3d, UpConvolution3d


def check_same(own: nn.Module, reference: nn.Module, features: Tensor) -> Tensor:
    """Compare output and all gradients; return the output."""
    reference = reference.double()
    reference.load_state_dict(own.state_dict())
    given, expected_given = features.clone().requires_grad_(), features.double().requires_grad_()
    found, expected = own(given), reference(expected_given)
    weights = torch.randn(expected.shape)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    pairs = [(found, expected), (given.grad, expected_given.grad)]
    pairs += [(a.grad, b.grad) for a, b in zip(own.parameters(), reference.parameters(), strict=True)]
    for one, other in pairs:
        torch.testing.assert_close(one, other.float(), atol=1e-4, rtol=1e-4)
    return found


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution(kernel: int, padding: int, bias: bool) -> None:
    """Of even and odd lengths, down to an output of one voxel."""
    torch.manual_seed(0)
    shapes = [(6, 5, 4), (5, 6, 7), (4, 4, 4), (3, 3, 8), (kernel, 5, 5)]
    for (channels, out), count, shape in itertools.product([(1, 3), (4, 2)], [1, 2], shapes):
        own = Convolution3d(channels, out, kernel, padding=padding, bias=bias)
        reference = nn.Conv3d(channels, out, kernel, padding=padding, bias=bias)
        check_same(own, reference, torch.randn(count, channels, *shape))


def test_up_to_the_size_that_torch_passes_to_onednn() -> None:
    torch.manual_seed(0)
    for length in (LEAST_FOR_ONEDNN // 128, LEAST_FOR_ONEDNN // 128 + 1):
        own, reference = Convolution3d(2, 2, 3, padding=1), nn.Conv3d(2, 2, 3, padding=1)
        found = check_same(own, reference, torch.randn(1, 2, 64, length, 3))
        assert found.is_contiguous(memory_format=torch.channels_last_3d) == (length <= LEAST_FOR_ONEDNN // 128)


def test_an_up_convolution() -> None:
    torch.manual_seed(0)
    for channels, out, count in itertools.product([1, 4], [1, 3], [1, 2]):
        own = UpConvolution3d(channels, out, 2, stride=2, bias=False)
        reference = nn.ConvTranspose3d(channels, out, 2, stride=2, bias=False)
        found = check_same(own, reference, torch.randn(count, channels, 3, 4, 5))
        assert found.shape == (count, out, 6, 8, 10)


def test_what_needs_no_gradient_gets_none() -> None:
    layer = Convolution3d(2, 2, 3).requires_grad_(False)
    image = torch.randn(1, 2, 6, 5, 5, requires_grad=True)
    layer(image).sum().backward()
    assert image.grad is not None
    assert layer.weight.grad is None
    layer = Convolution3d(2, 2, 3)
    layer(image.detach()).sum().backward()
    assert layer.weight.grad is not None


def test_in_bfloat16_torch_computes() -> None:
    torch.manual_seed(0)
    layer, up = Convolution3d(4, 4, 3), UpConvolution3d(4, 4, 2, stride=2, bias=False)
    features = torch.randn(1, 4, 6, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert up(layer(features)).dtype == torch.bfloat16
