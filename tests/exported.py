"""Tiny trained models to export, and images to compare the labels of."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.core.annotation.slices import AnnotatedSlice, keep_slices
from lib.core.device.machine import Machine
from lib.core.inference.segmenter import Segmenter
from lib.core.labels import LabelScheme
from lib.core.model.folder import ModelFolder
from lib.core.model.model import Model
from lib.core.plan.options import PlanOptions
from lib.core.training.cases import TrainingCase
from lib.core.training.options import TrainingOptions
from lib.core.training.run import train
from lib.core.volumes.volume import Volume

SCHEME = LabelScheme(("ball", "shell"), "outside")
VOXEL = (0.8, 1.1, 2.0)
AFFINE = np.array([[0, -1.1, 0, 3], [0.8, 0, 0, 5], [0, 0, -2, 7], [0, 0, 0, 1.0]])
"""Voxels of ``VOXEL`` mm, along axes that are turned and reversed."""

MACHINE = Machine("cpu", 2 * 10**9)


def truth(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return the dense annotation of a volume with a ball of 6 mm in a shell of 9 mm: 1 ball, 2 shell, 3 outside."""
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) - np.array(shape) / 2
    away = np.linalg.norm(places * VOXEL, axis=-1)
    return np.where(away < 6, 1, np.where(away < 9, 2, 3)).astype(np.uint8)


def image(shape: tuple[int, int, int], channels: int = 2, seed: int = 0, masked: int = 0) -> NDArray[np.uint16]:
    """Return a noisy image (C, X, Y, Z) of that volume.

    Args:
        shape: (X, Y, Z).
        channels: their number; the structures are darker in each further one.
        seed: of the noise.
        masked: planes across X at its end that are 0, as after masking.
    """
    levels = np.array([0, 900, 500, 200])[truth(shape)]
    noise = np.random.default_rng(seed).normal(0, 60, (channels, *shape))
    found = np.stack([levels / (1 + channel) for channel in range(channels)]) + noise + 300
    found[:, shape[0] - masked :] = 0
    return found.clip(0, 4000).astype(np.uint16)


def train_model(folder: Path, channels: int = 2, epochs: int = 6, **options: Any) -> Path:
    """Train a network of width 2 on some slices; return the model's file. ``options`` are those of the plan."""
    shape = (27, 22, 13)
    slices = [AnnotatedSlice(axis, index) for axis in range(3) for index in (4, 6, 9, 11)]
    case = TrainingCase("a", Volume(image(shape, channels), AFFINE), keep_slices(truth(shape), slices))
    models = ModelFolder(folder)
    train([case], SCHEME, models, TrainingOptions(max_epochs=epochs), PlanOptions(width=2, **options), MACHINE)
    return models.published


def labels_of_run(file: Path, volume: Volume) -> NDArray[np.uint8]:
    """Return the labels that *Run* gives a volume, in float32 on any processor.

    It fails if they say little about what is compared with them.
    """
    model = Model.load(file)
    labels = Segmenter(model.network, model.plan).segment(volume, MACHINE)
    assert (np.bincount(labels.ravel(), minlength=3) > labels.size / 100).all(), "not all classes are found"
    return labels


def agreement(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the share of voxels with the same label."""
    assert found.shape == expected.shape
    return float(np.mean(found == expected))
