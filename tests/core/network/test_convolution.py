"""The convolutions against torch's own in double precision, which oneDNN doesn't compute."""

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from lib.core.device.precision import onednn_convolves
from lib.core.network import convolution
from lib.core.network.convolution import TOO_SMALL_FOR_ONEDNN, Convolution3d, UpConvolution3d
from lib.core.network.crop import channels_last


def check_same(own: nn.Module, reference: nn.Module, features: Tensor) -> Tensor:
    """Compare output and all gradients; return the output."""
    reference = copy.deepcopy(reference).double()
    reference.load_state_dict(own.state_dict())
    own.zero_grad()
    given, expected_given = features.clone().requires_grad_(), features.double().requires_grad_()
    found, expected = own(given), reference(expected_given)
    weights = torch.randn(expected.shape)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    pairs = [(found, expected), (given.grad, expected_given.grad)]
    pairs += [(a.grad, b.grad) for a, b in zip(own.parameters(), reference.parameters(), strict=True)]
    for one, other in pairs:
        # A sum over many voxels is as exact as its largest parts, even where they cancel out.
        largest = other.abs().max()
        torch.testing.assert_close(one.double() / largest, other / largest, atol=1e-5, rtol=0)
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
        for layout in (torch.contiguous_format, torch.channels_last_3d):
            check_same(own, reference, torch.randn(count, channels, *shape).contiguous(memory_format=layout))


@pytest.mark.skipif(not onednn_convolves(torch.float32), reason="oneDNN doesn't convolve on this processor")
def test_features_are_halved_up_to_the_size_that_torch_passes_to_onednn() -> None:
    """What torch's own convolution returns isn't channels last, whatever it is given."""
    torch.manual_seed(0)
    for length in (160, 161):
        features = channels_last(torch.randn(1, 2, 64, length, 3))
        assert (features.shape[:4].numel() > TOO_SMALL_FOR_ONEDNN) == (length == 161)
        own, reference = Convolution3d(2, 2, 3, padding=1), nn.Conv3d(2, 2, 3, padding=1)
        assert reference(features).is_contiguous(memory_format=torch.channels_last_3d) == (length == 161)
        found = check_same(own, reference, features)
        assert found.is_contiguous(memory_format=torch.channels_last_3d)


def test_an_up_convolution() -> None:
    torch.manual_seed(0)
    for channels, out, count in itertools.product([1, 4], [1, 3], [1, 2]):
        own = UpConvolution3d(channels, out)
        reference = nn.ConvTranspose3d(channels, out, 2, stride=2, bias=False)
        for layout in (torch.contiguous_format, torch.channels_last_3d):
            features = torch.randn(count, channels, 3, 4, 5).contiguous(memory_format=layout)
            assert check_same(own, reference, features).shape == (count, out, 6, 8, 10)


def test_in_bfloat16_torch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes all features to oneDNN then."""
    monkeypatch.setattr(convolution, "_InHalves", None)
    layer, up = Convolution3d(4, 4, 3), UpConvolution3d(4, 4)
    features = torch.randn(1, 4, 6, 6, 6)
    with pytest.raises(AttributeError):
        layer(features)
    with torch.autocast("cpu", torch.bfloat16):
        assert up(layer(features)).dtype == torch.bfloat16
    assert layer.bfloat16()(features.bfloat16()).dtype == torch.bfloat16
