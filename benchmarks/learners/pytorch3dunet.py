"""pytorch3dunet, configured as in its examples for 3D volumes and run as by its command ``train3dunet``."""

import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from pytorch3dunet.unet3d.config import TorchDevice
from pytorch3dunet.unet3d.trainer import create_trainer

from benchmarks.learning import Task, Trial
from lib.core.labels import IGNORED
from lib.core.training.cases import TrainingCase

LARGEST_PATCH = (64, 64, 64)
"""Z, Y, X. The smallest sizes in Y and X that its slice builder accepts by default. The examples' 80×170×170 leave time
for a few steps only."""

POSITIONS = 5
"""Largest number of patches along an axis."""

LEARNING_RATE = 1e-3
"""Its default; the examples' 0.0002 learns a third as fast."""

ENDLESS = 1_000_000


def learn(trial: Trial, seed: int) -> None:
    """Train its ``UNet3D`` on HDF5 files of the volumes."""
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        files = [_write(folder / f"{number}.h5", case, trial.task) for number, case in enumerate(trial.task.cases)]
        # It requires other files for validation, but the time ends before any validation.
        validation = _write(folder / "validation.h5", trial.task.cases[0], trial.task)
        trainer = create_trainer(_configuration(trial.task, files, validation, folder, trial.device))

        def segment(case: TrainingCase) -> NDArray[np.uint8]:
            trainer.model.eval()
            image = _standardised(_raw(case))
            with torch.no_grad():
                logits = trainer.model(torch.from_numpy(image)[None].to(trial.device))
            labels = logits[0].argmax(0).to(torch.uint8).cpu().numpy()
            trainer.model.train()
            classes: NDArray[np.uint8] = labels.transpose(2, 1, 0)
            return classes

        # Asked after each step.
        trainer.should_stop = lambda: not trial.goes_on(segment)
        trainer.fit()


def _raw(case: TrainingCase) -> NDArray[np.float32]:
    """Return an image (C, Z, Y, X)."""
    return case.load().array.transpose(0, 3, 2, 1).astype(np.float32)


def _standardised(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Standardise each channel, as its ``Standardize`` does."""
    axes = (1, 2, 3)
    standardised: NDArray[np.float32] = (image - image.mean(axis=axes, keepdims=True)) / image.std(
        axis=axes, keepdims=True
    )
    return standardised


def _write(path: Path, case: TrainingCase, task: Task) -> str:
    """Write a volume and its labels, the ignored value being the number of classes; return the path."""
    targets = task.scheme.targets(case.annotation)
    with h5py.File(path, "w") as file:
        file["raw"] = _raw(case)
        file["label"] = np.where(targets == IGNORED, task.classes, targets).transpose(2, 1, 0)
    return str(path)


def _configuration(task: Task, files: list[str], validation: str, folder: Path, device: str) -> dict[str, Any]:
    smallest = np.min([case.volume.shape[::-1] for case in task.cases], axis=0).tolist()
    largest = np.max([case.volume.shape[::-1] for case in task.cases], axis=0).tolist()
    patch = [min(sizes) for sizes in zip(smallest, LARGEST_PATCH, strict=True)]
    stride = [max(1, (size - length) // (POSITIONS - 1)) for size, length in zip(largest, patch, strict=True)]
    standardize = {"name": "Standardize", "channelwise": True}
    return {
        "device": TorchDevice(device),
        "model": {
            "name": "UNet3D",
            "in_channels": task.channels,
            "out_channels": task.classes,
            "layer_order": "gcr",
            "f_maps": 32,
            "num_groups": 8,
            "final_sigmoid": False,
        },
        "loss": {"name": "CrossEntropyLoss", "ignore_index": task.classes},
        "optimizer": {"learning_rate": LEARNING_RATE, "weight_decay": 1e-5},
        "eval_metric": {"name": "MeanIoU"},
        "trainer": {
            "checkpoint_dir": str(folder / "checkpoints"),
            "validate_after_iters": ENDLESS,
            "log_after_iters": ENDLESS,
            "max_num_epochs": ENDLESS,
            "max_num_iterations": ENDLESS,
        },
        "loaders": {
            "dataset": "StandardHDF5Dataset",
            "batch_size": 1,
            "num_workers": 1,
            "raw_internal_path": "raw",
            "label_internal_path": "label",
            "train": {
                "file_paths": files,
                "slice_builder": {
                    "name": "FilterSliceBuilder",
                    "patch_shape": patch,
                    "stride_shape": stride,
                    # Any patch with painted foreground is accepted.
                    "threshold": 0.0,
                    "ignore_index": task.classes,
                    "skip_shape_check": True,
                },
                "transformer": {
                    "raw": [
                        standardize,
                        *_spatial_augmentation(spline_order=3),
                        {"name": "GaussianBlur3D", "execution_probability": 0.5},
                        {"name": "AdditiveGaussianNoise", "execution_probability": 0.2},
                        {"name": "AdditivePoissonNoise", "execution_probability": 0.2},
                        {"name": "ToTensor", "expand_dims": True},
                    ],
                    "label": [
                        *_spatial_augmentation(spline_order=0),
                        {"name": "ToTensor", "expand_dims": False, "dtype": "int64"},
                    ],
                },
            },
            "val": {
                "file_paths": [validation],
                "slice_builder": {
                    "name": "SliceBuilder",
                    "patch_shape": patch,
                    "stride_shape": patch,
                    "skip_shape_check": True,
                },
                "transformer": {
                    "raw": [standardize, {"name": "ToTensor", "expand_dims": True}],
                    "label": [{"name": "ToTensor", "expand_dims": False, "dtype": "int64"}],
                },
            },
        },
    }


def _spatial_augmentation(spline_order: int) -> list[dict[str, Any]]:
    """Return the augmentation that image and labels share."""
    return [
        {"name": "RandomFlip"},
        {"name": "RandomRotate90"},
        {"name": "RandomRotate", "axes": [[2, 1]], "angle_spectrum": 45, "mode": "reflect"},
        {"name": "ElasticDeformation", "spline_order": spline_order},
    ]
