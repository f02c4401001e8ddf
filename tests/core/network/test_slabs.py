"""The network in slabs against the same network in one pass."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from lib.core.device.precision import half_precision_of
from lib.core.network.architectures import PAPER
from lib.core.network.slabs import Slabs
from lib.core.network.unet import UNet
from project import APP


def trained(channels: int = 2, width: int = 2, dims: int = 3, batch_norm: bool = True) -> UNet:
    """A network whose batch normalisation changes its input."""
    torch.manual_seed(0)
    network = UNet(channels, 3, width, dims, batch_norm).eval()
    nn.init.normal_(network.classify.weight)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d | nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network


def slabs(tile: Tensor, rows: int) -> Iterator[Tensor]:
    for start in range(0, tile.shape[2], rows):
        yield tile[:, :, start : start + rows]


def in_slabs(network: UNet, tile: Tensor, rows: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.cat(list(Slabs(network, PAPER.tiles, dtype).run(slabs(tile, rows), tile.shape[3:])), dim=2)


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("rows", [1, 7, 16, 200])
def test_slabs_of_any_thickness_give_what_one_pass_gives(rows: int, batch_norm: bool) -> None:
    network, tile = trained(batch_norm=batch_norm), torch.rand(1, 2, 124, 92, 108)
    with torch.no_grad():
        expected = network(tile)
    assert expected.std() > 0.1
    torch.testing.assert_close(in_slabs(network, tile, rows), expected, atol=1e-4, rtol=0)


def test_in_two_dimensions() -> None:
    network, tile = trained(dims=2), torch.rand(1, 2, 132, 100)
    with torch.no_grad():
        expected = network(tile)
    torch.testing.assert_close(in_slabs(network, tile, 16), expected, atol=1e-4, rtol=0)


def test_half_precision_is_near_and_its_logits_are_float32() -> None:
    network, tile = trained(), torch.rand(1, 2, 100, 100, 92)
    exact, half = in_slabs(network, tile, 16), in_slabs(network, tile, 16, torch.bfloat16)
    assert half.dtype == torch.float32
    assert not torch.equal(half, exact)
    torch.testing.assert_close(half, exact, atol=0.1 * float(exact.std()), rtol=0)


def test_the_network_itself_stays_as_it_was() -> None:
    network = trained()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    in_slabs(network, torch.rand(1, 2, 92, 92, 92), 16, torch.bfloat16)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


MEASURE = """
import sys, torch
from lib.core.network.unet import UNet
from lib.core.network.architectures import PAPER
def peak():
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
rows, dtype = int(sys.argv[1]), getattr(torch, sys.argv[2])
network = PAPER.evaluator(UNet(1, 3, width=8).eval(), dtype)
slab = torch.rand(1, 1, 16, 220, 156)
before = peak()
slabs = (slab[:, :, : min(16, rows - row)] for row in range(0, rows, 16))
assert sum(logits.shape[2] for logits in network.run(slabs, (220, 156))) == rows - 88
print(peak() - before, network.peak_memory((rows, 220, 156)))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux tells it")
@pytest.mark.parametrize("dtype", dict.fromkeys(["float32", str(half_precision_of("cpu")).removeprefix("torch.")]))
def test_memory_is_bounded_whatever_the_length(dtype: str) -> None:
    """Measured in separate processes, and compared with the estimate by which tiles are chosen."""

    def taken(rows: int) -> tuple[int, int]:
        command = [sys.executable, "-c", MEASURE, str(rows), dtype]
        measured, estimated = subprocess.check_output(command, cwd=APP, text=True).split()
        return int(measured), int(estimated)

    short, estimate = taken(244)
    long, same_estimate = taken(484)
    assert short < estimate
    # The estimate doesn't depend on the length. Equal runs differ by up to a third.
    assert long < same_estimate == estimate
