"""Which precision a device computes in, also on other processors than this machine's."""

import os
import subprocess
import sys

import pytest
import torch

from lib.core.device import precision
from project import APP

SEGMENT = """
import numpy as np, torch
from lib.core.labels import LabelScheme
from lib.core.device.machine import Machine
from lib.core.model.model import build_network
from lib.core.plan.plan import Plan
from lib.core.device.precision import half_precision_of, onednn_convolves
from lib.core.inference.segmenter import Segmenter
from lib.core.volumes.volume import Volume
torch.manual_seed(1)
plan = Plan(LabelScheme(("ball", "shell"), "outside"), 1, None, 2, (132, 132, 116))
volume = Volume(np.random.default_rng(0).normal(size=(1, 36, 30, 21)).astype(np.float32), np.eye(4))
network = build_network(plan).eval()
torch.nn.init.normal_(network.classify.weight)
half, full = (
    Segmenter(network, plan, dtype).segment(volume, Machine("cpu", 10**9)) for dtype in (torch.bfloat16, torch.float32)
)
print(half_precision_of("cpu"), onednn_convolves(torch.bfloat16), len(np.unique(half)), np.mean(half != full))
"""


def on_processor(isa: str) -> list[str]:
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa}
    return subprocess.check_output([sys.executable, "-c", SEGMENT], cwd=APP, text=True, env=environment).split()


@pytest.mark.slow
def test_without_bfloat16_a_model_that_was_trained_in_it_segments_in_float32() -> None:
    """As on most laptops, where oneDNN can't convolve in bfloat16."""
    chosen, convolves, classes, different = on_processor("AVX2")
    assert (chosen, convolves, float(different)) == ("torch.float32", "False", 0.0)
    assert int(classes) > 1


def test_a_processor_that_emulates_bfloat16_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_f": True})
    monkeypatch.setattr(precision, "onednn_convolves", lambda _: True)
    assert precision.half_precision_of("cpu") == torch.float32
    assert precision.precision_on("cpu", torch.bfloat16) == torch.float32
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert precision.half_precision_of("cpu") == torch.bfloat16
    assert precision.precision_on("cpu", torch.bfloat16) == torch.bfloat16
    assert precision.precision_on("cpu", torch.float32) == torch.float32
    # Each device has its own precision: that of a GPU doesn't apply to the CPU that takes over.
    assert precision.half_precision_of("mps") == torch.float32


def test_a_probe_that_raises_means_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("mkldnn_convolution: bf16 path needs the cpu support avx_ne_convert")

    precision.onednn_convolves.cache_clear()
    monkeypatch.setattr(torch, "mkldnn_convolution", refuse)
    try:
        assert not precision.onednn_convolves(torch.bfloat16)
        assert precision.half_precision_of("cpu") == torch.float32
    finally:
        precision.onednn_convolves.cache_clear()


@pytest.mark.parametrize(("is_native", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_gpu_is_asked_for_native_bfloat16(
    monkeypatch: pytest.MonkeyPatch, is_native: bool, expected: torch.dtype
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return is_native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert precision.half_precision_of("cuda") == expected
