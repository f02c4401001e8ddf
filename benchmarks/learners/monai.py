"""MONAI's networks, trained with its own transforms, loader and sliding windows."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import Dataset, ThreadDataLoader, list_data_collate
from monai.inferers import sliding_window_inference
from monai.networks.nets import BasicUNet, DynUNet
from monai.transforms import (
    ClassesToIndicesd,
    Compose,
    DeleteItemsd,
    EnsureTyped,
    Rand3DElasticd,
    RandAdjustContrastd,
    RandAffined,
    RandCropByLabelClassesd,
    RandFlipd,
    ScaleIntensityRangePercentilesd,
    SpatialPadd,
    Transform,
)
from numpy.typing import NDArray

from benchmarks.learning import Task, Trial
from lib.core.labels import UNLABELLED
from lib.core.training.cases import TrainingCase

LARGEST_PATCH = (64, 64, 48)
LARGEST_WINDOW = (192, 192, 64)
"""Size of the sliding windows. They are larger than the patches: fewer windows save time and change little."""

MULTIPLE = 8
"""Patch sizes are multiples of this, because there are three poolings."""

MOST_FEATURES = 320
LEARNING_RATE = 1e-3
BATCH = 1
BUFFERED = 2
"""Patches drawn in advance, in parallel with the training step."""

ANGLE = math.radians(15)
SCALING = 0.15


def learn_basicunet(trial: Trial, seed: int) -> None:
    """Train ``BasicUNet`` with its default features."""
    _learn(trial, seed, lambda: BasicUNet(3, trial.task.channels, trial.task.classes))


def learn_dynunet(trial: Trial, seed: int) -> None:
    """Train ``DynUNet`` with the kernels and strides that nnU-Net would choose for the patch."""
    task = trial.task
    kernels, strides = kernels_and_strides(patch_shape(_shapes(task), LARGEST_PATCH), task.cases[0].volume.spacing)
    filters = [min(32 << level, MOST_FEATURES) for level in range(len(kernels))]
    _learn(
        trial,
        seed,
        lambda: DynUNet(3, task.channels, task.classes, kernels, strides, strides[1:], filters, norm_name="instance"),
    )


def _shapes(task: Task) -> list[tuple[int, ...]]:
    return [case.volume.shape for case in task.cases]


def patch_shape(shapes: Sequence[Sequence[int]], limit: Sequence[int]) -> tuple[int, ...]:
    """Return the sizes of patches for volumes of these shapes: all of a volume, padded, where the limit allows it."""
    largest = np.max(shapes, axis=0).tolist()
    padded = [MULTIPLE * math.ceil(size / MULTIPLE) for size in largest]
    return tuple(min(sizes) for sizes in zip(padded, limit, strict=True))


def kernels_and_strides(
    patch: Sequence[int], spacing: Sequence[float]
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Choose kernel and stride of each level by nnU-Net's rules.

    An axis is halved until 4 voxels are left, and neither halved nor convolved along while its voxels are over twice
    as large as the smallest.
    """
    sizes, voxel = list(patch), list(spacing)
    kernels: list[tuple[int, ...]] = []
    strides: list[tuple[int, ...]] = [(1,) * len(sizes)]
    while True:
        fine = [side <= 2 * min(voxel) for side in voxel]
        stride = tuple(2 if near and size >= 8 and size % 2 == 0 else 1 for near, size in zip(fine, sizes, strict=True))
        if max(stride) == 1:
            return [*kernels, (3,) * len(sizes)], strides
        kernels.append(tuple(3 if near else 1 for near in fine))
        strides.append(stride)
        sizes = [size // step for size, step in zip(sizes, stride, strict=True)]
        voxel = [side * step for side, step in zip(voxel, stride, strict=True)]


def _learn(trial: Trial, seed: int, build: Callable[[], torch.nn.Module]) -> None:
    torch.manual_seed(seed)
    task = trial.task
    patch, window = (patch_shape(_shapes(task), limit) for limit in (LARGEST_PATCH, LARGEST_WINDOW))
    network = build().to(trial.device)
    optimiser = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    prepare = _preparation(patch)
    prepared = [prepare(_item(case)) for case in task.cases]
    images = {case.id: item["image"] for case, item in zip(task.cases, prepared, strict=True)}
    # The target of each value of an annotation, which is its index here: ignored, background or foreground.
    targets = torch.from_numpy(task.scheme.targets(np.arange(task.classes + 1))).to(trial.device)
    loss_function = torch.nn.CrossEntropyLoss(ignore_index=int(targets[UNLABELLED]))

    def segment(case: TrainingCase) -> NDArray[np.uint8]:
        network.eval()
        with torch.no_grad():
            image = images[case.id][None].to(trial.device)
            logits = sliding_window_inference(image, window, 1, network, overlap=0.25)
        network.train()
        classes: NDArray[np.uint8] = logits[0].argmax(0).to(torch.uint8).cpu().numpy()
        # Small volumes were padded, equally at both ends.
        starts = [(size - length) // 2 for size, length in zip(classes.shape, case.volume.shape, strict=True)]
        box = tuple(slice(start, start + n) for start, n in zip(starts, case.volume.shape, strict=True))
        return classes[box]

    for batch in batches(prepared, _augmentation(patch, task.classes, seed)):
        image, label = (batch[part].to(trial.device) for part in ("image", "label"))
        loss = loss_function(network(image), targets[label[:, 0].long()])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if not trial.goes_on(segment):
            return


def _item(case: TrainingCase) -> dict[str, Any]:
    return {"image": torch.from_numpy(case.load().array.astype(np.float32)), "label": case.annotation[None]}


def _preparation(patch: Sequence[int]) -> Compose:
    """Return the transforms that are applied once to each volume."""
    return Compose(
        [
            ScaleIntensityRangePercentilesd("image", lower=1, upper=99, b_min=0, b_max=1, clip=True, channel_wise=True),
            SpatialPadd("image", patch, mode="reflect"),
            SpatialPadd("label", patch, mode="constant", value=UNLABELLED),
            EnsureTyped(("image", "label"), track_meta=False),
        ]
    )


def _augmentation(patch: Sequence[int], classes: int, seed: int) -> Compose:
    """Return the random transforms of each patch."""
    both: dict[str, Any] = {"keys": ("image", "label"), "mode": ("bilinear", "nearest")}
    # Voxels from outside the volume are unlabelled.
    both["padding_mode"] = ("reflection", "zeros")
    chain = Compose(
        [
            class_places(classes),
            *balanced_crop(patch, classes),
            *(RandFlipd(("image", "label"), prob=0.5, spatial_axis=axis) for axis in range(3)),
            RandAffined(prob=0.5, rotate_range=[ANGLE] * 3, scale_range=[SCALING] * 3, **both),
            Rand3DElasticd(prob=0.3, sigma_range=(5, 7), magnitude_range=(50, 100), **both),
            RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5)),
            EnsureTyped(("image", "label"), track_meta=False),
        ]
    )
    chain.set_random_state(seed)
    return chain


def class_places(classes: int) -> Transform:
    """Return the transform that lists the voxels of each class, for ``balanced_crop``."""
    return ClassesToIndicesd("label", num_classes=classes + 1)


def balanced_crop(patch: Sequence[int], classes: int) -> list[Transform]:
    """Return transforms that cut out a patch, centred on each class equally often and never on an unlabelled voxel."""
    return [
        RandCropByLabelClassesd(
            ("image", "label"),
            "label",
            patch,
            ratios=[0, *(1 for _ in range(classes))],
            num_classes=classes + 1,
            num_samples=1,
            indices_key="label_cls_indices",
        ),
        DeleteItemsd("label_cls_indices"),
    ]


def batches(prepared: Sequence[Mapping[Any, Any]], augmentation: Compose) -> Iterator[dict[str, torch.Tensor]]:
    """Yield batches without end."""
    dataset = Dataset(list(prepared), augmentation)
    loader = ThreadDataLoader(
        dataset, buffer_size=BUFFERED, batch_size=BATCH, shuffle=True, num_workers=0, collate_fn=list_data_collate
    )
    while True:
        yield from loader
