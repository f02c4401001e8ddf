"""A TorchScript file that takes an image and returns its labels, for programs that have torch."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .card import ModelCard
from .freezing import Frozen
from .segmentation import Segmentation

USE = """
## Use

```python
import torch

model = torch.jit.load("model.ts")
labels = model.segment(image, [x, y, z])
```

`image` is a tensor (channel, X, Y, Z) of integers or finite floats on the device of the model; `[x, y, z]` is the size
of a voxel in mm. The labels are (X, Y, Z) uint8. The parts are there too: `model.prepare(image, [x, y, z])` returns
what the network takes, `model(prepared[None])` class probabilities, and `model.back(probabilities[0], shape)` the same
on the image's own voxels.
"""


def write_torchscript(folder: Path, frozen: Frozen, facts: dict[str, Any], card: ModelCard) -> None:
    """Write ``model.ts`` and the card into a folder."""
    save_segmentation(folder / "model.ts", frozen, facts)
    (folder / "README.md").write_text(card.to_markdown() + USE, encoding="utf-8")


def save_segmentation(path: Path, frozen: Frozen, facts: dict[str, Any]) -> None:
    """Write a ``Segmentation`` as TorchScript."""
    with quiet():
        torch.jit.save(torch.jit.script(Segmentation(frozen.network, facts)), path)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back torch's advice about TorchScript, which users can't follow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
