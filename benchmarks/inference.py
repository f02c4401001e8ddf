"""Segmentation of a volume as large as the paper's first sample, 248×244×64 with 3 channels, at full width.

All sides use frozen statistics, and return or write the class of each voxel.
"""

import itertools
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from . import ours
from .data import CHANNELS, CLASSES, PAPER_TILE, PAPER_WIDTH, SAMPLE_SHAPE, smooth_volume
from .results import DepthEntry, Entry
from .timing import Announce, BenchmarkOptions, Side, compare, gigabytes
from .timing import measure as measure_sides

BARS = {
    "inference.paper_tiling_8gb": 4.0,
    "inference.paper_tiling_16gb": 6.0,
    "inference.monai_sliding_window": 2.0,
    "inference.pytorch3dunet": 2.0,
}
DEPTH = "inference.depth"
KEYS = (*BARS, DEPTH)
REPEATS = 3

SMALL, LARGE = 8e9, 16e9
"""Bytes of memory that our side may take; the peers have no limit."""

DEPTHS = (1, 2, 4)
DEPTH_MEMORY = 1e9
"""Bytes that our side may take for volumes of any depth; so few that deeper volumes need several tiles."""

OUTPUT_BORDER = 44
"""Voxels by which the network's valid convolutions shrink a tile on each side."""

HALO = (32, 32, 26)
"""Voxels on each side of pytorch3dunet's patches, as in its example configurations. Along z, they and a patch of the
volume's whole depth fill the paper's window."""

TimedRun = Callable[[Callable[[float], None]], Any]


def run_ours(image: NDArray[np.float32], memory: float, device: str = "cpu", width: int = PAPER_WIDTH) -> TimedRun:
    """Prepare our side; the run returns classes (X, Y, Z)."""
    return ours.whole_volume(image, memory, device, width)


def run_paper_tiling(
    image: NDArray[np.float32],
    tiles: int | None = None,
    device: str = "cpu",
    width: int = PAPER_WIDTH,
    tile: tuple[int, ...] = PAPER_TILE,
) -> TimedRun:
    """Prepare the paper's literal tiling: adjacent outputs, mirrored borders, float32, default memory layout.

    Args:
        image: (C, X, Y, Z).
        tiles: number of tiles to compute; None: all.
        device: ``cpu`` or ``cuda``.
        width: width of the network.
        tile: input sizes.

    Returns:
        A run that returns classes (X, Y, Z) and the computed part of the tiles, 0 … 1.
    """
    network = ours.paper_network(width).to(device)
    output = [size - 2 * OUTPUT_BORDER for size in tile]
    shape = image.shape[1:]

    def run(progress: Callable[[float], None]) -> tuple[NDArray[np.uint8], float]:
        origins = list(itertools.product(*(range(0, size, step) for size, step in zip(shape, output, strict=True))))
        wanted = origins[:tiles]
        # The padding behind the volume reaches to the end of the last tiles.
        pad = [
            (OUTPUT_BORDER, OUTPUT_BORDER + math.ceil(size / step) * step - size)
            for size, step in zip(shape, output, strict=True)
        ]
        padded = torch.from_numpy(np.pad(image, [(0, 0), *pad], mode="reflect"))
        labels = np.zeros(shape, dtype=np.uint8)
        with torch.no_grad():
            for done, origin in enumerate(wanted, start=1):
                x, y, z = (slice(start, start + size) for start, size in zip(origin, tile, strict=True))
                logits = network(padded[None, :, x, y, z].to(device))[0]
                target = labels[tuple(slice(start, start + size) for start, size in zip(origin, output, strict=True))]
                inside = tuple(slice(0, size) for size in target.shape)
                target[:] = logits.argmax(0).to(torch.uint8).cpu().numpy()[inside]
                progress(done / len(wanted))
        return labels, len(wanted) / len(origins)

    return run


class SamePaddedUNet(torch.nn.Module):
    """The paper's network with the same parameters and zero padding: its output is as large as its input.

    If a size is odd before pooling, the upsampled features are a voxel shorter. Their last values extend them, as in
    MONAI's ``BasicUNet``.

    Args:
        network: the network with valid convolutions.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        for module in network.modules():
            if isinstance(module, torch.nn.Conv3d) and module.kernel_size == (3, 3, 3):
                module.padding = (1, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (N, classes, *spatial) of an image (N, C, *spatial)."""
        network: Any = self.network
        features, shortcuts = image, []
        for level, convolutions in enumerate(network.analysis):
            features = convolutions(network.pool(features) if level else features)
            shortcuts.append(features)
        shortcuts.pop()
        for up, convolutions in zip(network.up, network.synthesis, strict=True):
            features, shortcut = up(features), shortcuts.pop()
            missing = [
                side
                for size in zip(shortcut.shape[:1:-1], features.shape[:1:-1], strict=True)
                for side in (0, size[0] - size[1])
            ]
            if any(missing):
                features = functional.pad(features, missing, mode="replicate")
            features = convolutions(torch.cat([features, shortcut], dim=1))
        logits: Tensor = network.classify(features)
        return logits


def run_monai(image: NDArray[np.float32], device: str = "cpu", width: int = PAPER_WIDTH) -> TimedRun:
    """Prepare MONAI's ``SlidingWindowInferer`` at its default overlap; the run returns (X, Y, Z) classes."""
    from monai.inferers import SlidingWindowInferer

    network = SamePaddedUNet(ours.paper_network(width)).to(device)
    inferer = SlidingWindowInferer(roi_size=PAPER_TILE, sw_batch_size=1, overlap=0.25)
    shape = [max(size, window) for size, window in zip(image.shape[1:], PAPER_TILE, strict=True)]
    windows = math.prod(
        math.ceil((size - window) / int(0.75 * window)) + 1 for size, window in zip(shape, PAPER_TILE, strict=True)
    )

    def run(progress: Callable[[float], None]) -> NDArray[np.uint8]:
        done = 0

        def counted(window: Tensor) -> Tensor:
            nonlocal done
            logits: Tensor = network(window)
            done += 1
            progress(done / windows)
            return logits

        with torch.no_grad():
            logits = inferer(torch.from_numpy(image)[None].to(device), counted)
        labels: NDArray[np.uint8] = logits[0].argmax(0).to(torch.uint8).cpu().numpy()
        return labels

    return run


def pytorch3dunet_network(width: int = PAPER_WIDTH) -> torch.nn.Module:
    """Return pytorch3dunet's ``UNet3D`` with the paper's feature maps and batch normalisation."""
    from pytorch3dunet.unet3d.model import UNet3D

    torch.manual_seed(0)
    # Conv, batch normalisation, ReLU; the encoder's first convolutions have half of these feature maps.
    maps = [2 * width << level for level in range(4)]
    network: torch.nn.Module = UNet3D(CHANNELS, CLASSES, final_sigmoid=False, f_maps=maps, layer_order="cbr")
    return network


def run_pytorch3dunet(image: NDArray[np.float32], device: str = "cpu", width: int = PAPER_WIDTH) -> TimedRun:
    """Prepare pytorch3dunet's ``StandardPredictor`` as its command ``predict3dunet`` does.

    It reads an HDF5 file and writes another; the run returns the written classes (X, Y, Z).
    """
    import h5py
    from pytorch3dunet.datasets.utils import get_test_loaders
    from pytorch3dunet.predict import get_predictor
    from pytorch3dunet.unet3d.config import TorchDevice

    network = pytorch3dunet_network(width).to(device)
    # The folder lives as long as the run that refers to it.
    folder = tempfile.TemporaryDirectory()
    source = Path(folder.name) / "volume.h5"
    with h5py.File(source, "w") as file:
        # Its axes are z, y, x.
        file["raw"] = image.transpose(0, 3, 2, 1)
    halo, window = HALO[::-1], PAPER_TILE[::-1]
    patch = [
        min(size - 2 * border, length) for size, border, length in zip(window, halo, image.shape[:0:-1], strict=True)
    ]
    config: dict[str, Any] = {
        "device": TorchDevice(device),
        "model": {"out_channels": CLASSES},
        "predictor": {"name": "StandardPredictor", "save_segmentation": True},
        "loaders": {
            "dataset": "StandardHDF5Dataset",
            "output_dir": str(Path(folder.name) / "predictions"),
            "batch_size": 1,
            "num_workers": 1,
            "raw_internal_path": "raw",
            "test": {
                "file_paths": [str(source)],
                "transformer": {"raw": [{"name": "ToTensor", "expand_dims": False}]},
                "slice_builder": {
                    "name": "SliceBuilder",
                    "patch_shape": patch,
                    "stride_shape": patch,
                    "halo_shape": list(halo),
                },
            },
        },
    }

    def run(progress: Callable[[float], None]) -> NDArray[np.uint8]:
        predictor = get_predictor(network, config)
        (loader,) = get_test_loaders(config)
        done = 0

        def count(*_: Any) -> None:
            nonlocal done
            done += 1
            progress(done / len(loader))

        handle = network.register_forward_hook(count)
        predictor(loader)
        handle.remove()
        (written,) = (Path(folder.name) / "predictions").iterdir()
        with h5py.File(written) as file:
            labels: NDArray[np.uint8] = file["predictions"][()].transpose(2, 1, 0).astype(np.uint8)
        return labels

    return run


RUNS: dict[str, Callable[..., TimedRun]] = {
    "ours": run_ours,
    "paper_tiling": run_paper_tiling,
    "monai_sliding_window": run_monai,
    "pytorch3dunet": run_pytorch3dunet,
}


def prepare(way: str, depth: int = 1, **options: Any) -> Callable[[Callable[[float], None]], dict[str, Any]]:
    """Prepare a side for ``benchmarks.side``: a run segments a volume of ``depth`` times the sample's depth."""
    x, y, z = SAMPLE_SHAPE
    run = RUNS[way](smooth_volume((x, y, depth * z)), **options)

    def timed(progress: Callable[[float], None]) -> dict[str, Any]:
        result = run(progress)
        return {"done": result[1]} if way == "paper_tiling" else {}

    return timed


def measure(keys: Sequence[str], chosen: BenchmarkOptions, announce: Announce) -> Iterator[tuple[str, Entry]]:
    """Yield key and entry of each comparison."""
    compared = [key for key in keys if key != DEPTH]
    if compared:
        yield from _comparisons(compared, chosen, announce)
    if DEPTH in keys:
        yield DEPTH, _depths(chosen, announce)


def _side(way: str, chosen: BenchmarkOptions, **options: Any) -> Side:
    return Side("benchmarks.inference:prepare", {"way": way, "device": chosen.device, **options})


def _comparisons(keys: Sequence[str], chosen: BenchmarkOptions, announce: Announce) -> Iterator[tuple[str, Entry]]:
    # Our side and the peer of each comparison.
    pairs = {
        "inference.paper_tiling_8gb": ("ours, 8 GB", "paper_tiling"),
        "inference.paper_tiling_16gb": ("ours, 16 GB", "paper_tiling"),
        "inference.monai_sliding_window": ("ours, 8 GB", "monai_sliding_window"),
        "inference.pytorch3dunet": ("ours, 8 GB", "pytorch3dunet"),
    }
    all_sides = {
        "ours, 8 GB": _side("ours", chosen, memory=SMALL),
        "ours, 16 GB": _side("ours", chosen, memory=LARGE),
        "paper_tiling": _side("paper_tiling", chosen, tiles=chosen.paper_tiles),
        "monai_sliding_window": _side("monai_sliding_window", chosen),
        "pytorch3dunet": _side("pytorch3dunet", chosen),
    }
    needed = {name for key in keys for name in pairs[key]}
    sides = {name: side for name, side in all_sides.items() if name in needed}
    runs = measure_sides(sides, chosen.repeats or REPEATS, warm_up=False, announce=announce)
    volume, window = ("×".join(map(str, sizes)) for sizes in (SAMPLE_SHAPE, PAPER_TILE))
    notes = {
        "paper_tiling": f"tiles of {window}",
        "monai_sliding_window": f"SlidingWindowInferer, overlap 0.25, window {window}, same parameters, zero-padded",
        "pytorch3dunet": f"StandardPredictor, UNet3D of the same feature maps, window {window}, halo "
        + "×".join(map(str, HALO)),
    }
    for key in keys:
        own, peer = pairs[key]
        note = f"whole volume of {volume} with 3 channels; {own}; theirs: {notes[peer]}"
        part = runs[peer].facts.get("done", 1)
        if part < 1:
            note += f"; timed on {100 * part:.0f} % of the tiles and scaled"
        yield key, compare(runs[own], {peer: runs[peer]}, BARS[key], chosen.command(key), note)


def _depths(chosen: BenchmarkOptions, announce: Announce) -> DepthEntry:
    """Measure how time and memory grow with the depth of the volume."""
    names = {f"depth ×{depth}": _side("ours", chosen, memory=DEPTH_MEMORY, depth=depth) for depth in DEPTHS}
    runs = measure_sides(names, chosen.repeats or 1, warm_up=False, announce=announce)
    seconds = [measured.median for measured in runs.values()]
    peaks = [gigabytes(measured) for measured in runs.values()]
    rows = zip(DEPTHS, seconds, peaks, strict=True)
    return {
        "depths": [SAMPLE_SHAPE[2] * depth for depth in DEPTHS],
        "ours": seconds,
        "peak_gb": peaks,
        "note": f"{DEPTH_MEMORY / 1e9:g} GB allowed, beside the software and the volume; "
        + ", ".join(f"depth ×{depth}: {s:.1f} s, {gb:.1f} GB" for depth, s, gb in rows),
        "command": chosen.command(DEPTH),
    }
