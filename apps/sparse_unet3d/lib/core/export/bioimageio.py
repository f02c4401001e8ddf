"""A BioImage.IO package: a model description of format 0.5 with TorchScript weights and a test image."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lib.core.errors import InputError

from .card import ModelCard
from .freezing import Frozen
from .segmentation import Segmentation
from .torchscript import save_segmentation

FORMAT = "0.5.3"
"""Version of the description's format. Programs for any later 0.5 read it too."""

DESCRIPTION = "bioimageio.yaml"

TEST_SHAPE = (40, 36, 28)

USE = """
## Use

Any software for BioImage.IO models runs it, for instance `bioimageio predict`. The output has the probabilities of all
classes; the label of a voxel is the class of the highest. The image has to be given as a whole, not in blocks.

{limits}
"""

SCALED = (
    "Intensities are scaled by percentiles of all voxels. If one value makes up 5 % of an image or more, as after "
    "masking, training and Run leave that value out: labels of such images may differ from Run's."
)

NOT_RESAMPLED = (
    "The network works with voxels of {spacing} mm. BioImage.IO's format can't say that an image has to be resampled: "
    "resample it to this voxel size before, and the labels back afterwards."
)


def write_bioimageio(folder: Path, frozen: Frozen, facts: dict[str, Any], card: ModelCard) -> None:
    """Write a package into a folder: ``bioimageio.yaml`` and the files that it names.

    What the format can't say of the way from an image to its labels, the page in the package says.

    Raises:
        InputError: the licence can't be an SPDX identifier.
    """
    if card.licence and not re.fullmatch(r"[A-Za-z0-9.+-]+", card.licence):
        raise InputError(f"--licence {card.licence!r}: BioImage.IO needs an SPDX identifier such as CC-BY-4.0")
    save_segmentation(folder / "model.ts", frozen, facts)
    image = np.random.default_rng(0).normal(1000, 100, (1, facts["channels"], *TEST_SHAPE)).astype(np.float32)
    np.save(folder / "test_input.npy", image)
    scaled = torch.as_tensor(_scaled(image, facts["percentiles"]))
    np.save(folder / "test_output.npy", Segmentation(frozen.network, facts)(scaled).numpy())
    limits = [SCALED]
    if spacing := facts["spacing_mm"]:
        limits.append(NOT_RESAMPLED.format(spacing=" × ".join(f"{size:.6g}" for size in spacing)))
    page = card.to_markdown() + USE.format(limits="\n\n".join(limits))
    (folder / "README.md").write_text(page, encoding="utf-8")
    # JSON is YAML too.
    description = _description(folder, facts, card)
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _scaled(image: NDArray[np.float32], percentiles: tuple[float, float]) -> NDArray[np.float32]:
    low, high = np.percentile(image.astype(np.float64), percentiles, axis=(2, 3, 4), keepdims=True)
    scaled: NDArray[np.float32] = np.clip((image - low) / (high - low), 0, 1).astype(np.float32)
    return scaled


def _description(folder: Path, facts: dict[str, Any], card: ModelCard) -> dict[str, Any]:
    def named(name: str) -> dict[str, str]:
        return {"source": name, "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest()}

    low, high = facts["percentiles"]
    description = {
        "type": "model",
        "format_version": FORMAT,
        "name": "Segmentation by Sparse U-Net",
        "description": f"Segments {', '.join(card.classes)}. {card.statistics}"[:1024],
        "documentation": "README.md",
        "cite": [
            {
                "text": "Çiçek et al.: 3D U-Net: Learning Dense Volumetric Segmentation from Sparse Annotation. 2016",
                "doi": "10.1007/978-3-319-46723-8_49",
            }
        ],
        "tags": ["segmentation", "3d", "unet"],
        "inputs": [
            {
                "id": "image",
                "axes": [
                    {"type": "batch", "size": 1},
                    {"type": "channel", "channel_names": [f"channel{channel}" for channel in range(facts["channels"])]},
                    *({"type": "space", "id": axis, "size": {"min": 1, "step": 1}} for axis in "xyz"),
                ],
                "data": {"type": "float32"},
                "test_tensor": named("test_input.npy"),
                "preprocessing": [
                    {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
                    {
                        "id": "scale_range",
                        "kwargs": {"axes": ["x", "y", "z"], "min_percentile": low, "max_percentile": high},
                    },
                    {"id": "clip", "kwargs": {"min": 0, "max": 1}},
                ],
            }
        ],
        "outputs": [
            {
                "id": "probabilities",
                "axes": [
                    {"type": "batch", "size": 1},
                    {"type": "channel", "channel_names": [f"class{n}" for n in range(len(facts["classes"]))]},
                    *({"type": "space", "id": axis, "size": {"tensor_id": "image", "axis_id": axis}} for axis in "xyz"),
                ],
                "data": {"type": "float32", "range": [0, 1]},
                "test_tensor": named("test_output.npy"),
            }
        ],
        "weights": {
            "torchscript": {**named("model.ts"), "pytorch_version": card.exported_by["torch"].partition("+")[0]}
        },
    }
    return {**description, "license": card.licence} if card.licence else description
