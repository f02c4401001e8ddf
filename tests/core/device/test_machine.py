"""Which device is chosen. Capabilities that this machine lacks are simulated."""

from collections.abc import Iterator

import pytest
import torch

from lib.core.device import machine
from lib.core.device.machine import default_device, describe_device


@pytest.fixture(autouse=True)
def _asked_again() -> Iterator[None]:
    machine._device_and_reason.cache_clear()
    yield
    machine._device_and_reason.cache_clear()


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(machine.shutil, "which", lambda _: None)
    return monkeypatch


def test_every_kind_of_layer_trains_on_the_cpu() -> None:
    machine._try_training("cpu")


def test_apples_gpu_is_used_where_it_can_train(without_gpu: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    without_gpu.setattr(torch.backends.mps, "is_available", lambda: True)
    without_gpu.setattr(machine, "_try_training", tried.append)
    assert (default_device(), describe_device()) == ("mps", "computing on Apple's GPU")
    assert tried == ["mps"]


def test_apples_gpu_is_not_used_if_it_lacks_a_layer(without_gpu: pytest.MonkeyPatch) -> None:
    def lack(_: str) -> None:
        raise NotImplementedError("aten::max_pool3d_with_indices")

    without_gpu.setattr(torch.backends.mps, "is_available", lambda: True)
    without_gpu.setattr(machine, "_try_training", lack)
    assert default_device() == "cpu"
    assert "max_pool3d" in describe_device()


@pytest.mark.usefixtures("without_gpu")
def test_the_lack_of_a_gpu_is_reported() -> None:
    assert default_device() == "cpu"
    assert describe_device() == "computing on the CPU: no NVIDIA or Apple GPU was found"


@pytest.mark.parametrize(
    ("cuda", "said"), [(None, "this torch .* is a CPU build"), ("12.6", "its driver may be older")]
)
def test_why_an_nvidia_gpu_is_unused_is_reported(without_gpu: pytest.MonkeyPatch, cuda: str | None, said: str) -> None:
    without_gpu.setattr(machine.shutil, "which", lambda name: f"/usr/bin/{name}")
    without_gpu.setattr(torch.version, "cuda", cuda)
    assert default_device() == "cpu"
    with pytest.raises(RuntimeError, match=said):
        raise RuntimeError(describe_device())
