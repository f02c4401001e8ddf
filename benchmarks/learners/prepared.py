"""What this software does before its network learns, for other learners: working grid, scaling, held-out slices."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.learning import Segment, Task
from lib.core.annotation.holding_out import Painted, hold_out
from lib.core.annotation.paint import Paint
from lib.core.annotation.slices import detect
from lib.core.data.preparation import PreparedImage
from lib.core.metrics import confusion, iou_per_class, mean_iou
from lib.core.plan.options import PlanOptions
from lib.core.plan.planning import make_plan
from lib.core.training.cases import TrainingCase


@dataclass(frozen=True)
class Prepared:
    """A task on the working grid.

    Attributes:
        task: the task.
        images: by case, (C, *working) in 0 … 1.
        training: by case, the annotation (*working) to train on.
        held_out: by case, the voxels of the volume that are held out; if none are, those to train on.
        voxel_size: of the working grid.
    """

    task: Task
    images: dict[str, PreparedImage]
    training: dict[str, NDArray[np.uint8]]
    held_out: dict[str, Paint]
    voxel_size: tuple[float, ...]

    @classmethod
    def of(cls, task: Task, seed: int) -> "Prepared":
        """Prepare a task; the seed draws the held-out slices."""
        volumes = [case.load() for case in task.cases]
        plan = make_plan(volumes, task.scheme, PlanOptions(), "cpu")
        images = {case.id: PreparedImage.of(volume, plan) for case, volume in zip(task.cases, volumes, strict=True)}
        painted = {}
        for case in task.cases:
            detected = detect(case.paint)
            painted[case.id] = Painted(case.paint, detected.slices, detected.stacked, images[case.id].grid)
        split = hold_out(painted, task.scheme, seed)
        parts = {case.id: split.part(case.id, case.paint, images[case.id].grid) for case in task.cases}
        training = {name: images[name].grid.annotation(trained.array()) for name, (trained, _) in parts.items()}
        held_out = {name: held if split.has_validation else trained for name, (trained, held) in parts.items()}
        voxel_size = images[task.cases[0].id].grid.voxel_size(volumes[0].spacing)
        return cls(task, images, training, held_out, voxel_size)

    @property
    def sizes(self) -> Sequence[tuple[int, ...]]:
        """The volumes' sizes in working voxels."""
        return [image.grid.working for image in self.images.values()]

    def classes(self, case: TrainingCase, probabilities: Tensor) -> NDArray[np.uint8]:
        """Return the most probable classes (X, Y, Z) on a volume's own grid, from probabilities (classes, *working)."""
        back = self.images[case.id].grid.back(probabilities.cpu())
        found: NDArray[np.uint8] = back.argmax(0).to(torch.uint8).numpy()
        return found

    def score(self, segment: Segment) -> float:
        """Return the mean foreground IoU on the held-out slices, 0 … 1."""
        counts = np.zeros((self.task.classes,) * 2, dtype=np.int64)
        for case in self.task.cases:
            places, values = self.held_out[case.id].places()
            counts += confusion(segment(case)[places], values, self.task.scheme)
        return mean_iou(iou_per_class(counts, self.task.scheme)) or 0.0
