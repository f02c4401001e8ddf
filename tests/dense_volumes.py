"""A folder of small volumes with dense label maps."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray


def save(path: Path, array: NDArray[Any]) -> None:
    """Write a map of voxels of 1 × 1 × 2 mm."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-1.0, -1.0, 2.0, 1.0])), path)


def write_balls(folder: Path) -> None:
    """Write images/ and labels/: two small volumes with a bright ball in each, and one without truth."""
    x, y, z = np.meshgrid(*(np.arange(size) for size in (24, 20, 12)), indexing="ij")
    rng = np.random.default_rng(0)
    for number in (1, 2):
        ball = ((x - 9 - number) ** 2 + (y - 10) ** 2 + (2 * (z - 6)) ** 2 < 36).astype(np.uint8)
        save(
            folder / "images" / f"ball_{number}.nii.gz",
            (1000.0 * ball + rng.normal(300, 60, ball.shape)).astype(np.int16),
        )
        save(folder / "labels" / f"ball_{number}.nii.gz", ball)
    save(folder / "images" / "without_truth.nii.gz", np.zeros((24, 20, 12), np.int16))
