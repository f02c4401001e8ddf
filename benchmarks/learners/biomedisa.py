"""Biomedisa's smart interpolation: random walks from the painted voxels, whose steps depend on the image."""

import numpy as np
from biomedisa.interpolation import smart_interpolation
from numpy.typing import NDArray

from benchmarks.learning import Trial
from lib.core.labels import LabelScheme
from lib.core.training.cases import TrainingCase

PLATFORM = "opencl_Portable_CPU"
"""The portable implementation of OpenCL (PoCL). By itself, Biomedisa looks for those of some manufacturers only."""


def learn(trial: Trial, seed: int) -> None:
    """Interpolate all volumes and score the result once; its random numbers can't be chosen."""
    results = {case.id: _interpolate(case, trial.task.scheme) for case in trial.task.cases}
    trial.score(lambda case: results[case.id])


def _interpolate(case: TrainingCase, scheme: LabelScheme) -> NDArray[np.uint8]:
    """Return the classes (X, Y, Z) of a volume. Several channels count as their mean, since Biomedisa takes one."""
    image = case.load().array.mean(axis=0, dtype=np.float32)
    # Painted background is a label like others: what is unpainted in an annotated slice isn't background.
    found = smart_interpolation(image, case.annotation.copy(), allaxis=True, platform=PLATFORM)["regular"]
    return np.where(found == scheme.background_value, 0, found).astype(np.uint8)
