"""An ONNX file with a runner that needs onnxruntime and numpy only."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from lib.core.errors import InputError

from .card import ModelCard
from .freezing import Frozen
from .frozen import FrozenNetwork
from .torchscript import quiet

OPSET = 17
"""Version of ONNX's operators: one that programs of 2022 and later know."""

RUNNER = Path(__file__).with_name("runner.py")

USE = """
## Use

```sh
pip install onnxruntime numpy
python run.py IMAGE.npy LABELS.npy 0.5 0.5 1.0
```

`IMAGE.npy` has the axes channel, X, Y, Z and finite values; the numbers are the size of a voxel along X, Y, Z in mm.
`LABELS.npy` gets the labels (X, Y, Z) uint8.

`model.onnx` takes an `image` (1, channel, X, Y, Z) float32 of any size, and a box in it: its `first` voxel (3,) int64,
a multiple of 8 along each axis, and its `size` (3,) int64. It returns the `probabilities` (1, class, *size) of the box.
The box at 0, 0, 0 of the size X, Y, Z is the whole image. `preprocessing.json` says what has to be done before and
after it, and `run.py` does it.
"""


def write_onnx(folder: Path, frozen: Frozen, facts: dict[str, Any], card: ModelCard) -> None:
    """Write ``model.onnx``, ``preprocessing.json``, ``run.py`` and the card into a folder.

    Raises:
        InputError: the package onnx isn't installed.
    """
    save_onnx(folder / "model.onnx", frozen.network, facts["channels"])
    (folder / "preprocessing.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(RUNNER, folder / "run.py")
    (folder / "README.md").write_text(card.to_markdown() + USE, encoding="utf-8")


def save_onnx(path: Path, network: FrozenNetwork, channels: int) -> None:
    """Write a network as ONNX; see ``write_onnx``."""
    if importlib.util.find_spec("onnx") is None:
        raise InputError("--as onnx needs the package onnx; install it with pip install -r requirements-export.txt")
    spatial = {2: "x", 3: "y", 4: "z"}
    with quiet():
        torch.onnx.export(
            torch.jit.script(network),
            (torch.zeros(1, channels, 8, 8, 8), torch.tensor([0, 0, 0]), torch.tensor([8, 8, 8])),
            path,
            input_names=["image", "first", "size"],
            output_names=["probabilities"],
            dynamic_axes={"image": spatial, "probabilities": spatial},
            opset_version=OPSET,
            # The other exporter can't tell that sizes which depend on the image's fit together.
            dynamo=False,
        )
