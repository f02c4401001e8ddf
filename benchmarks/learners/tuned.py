"""Networks of others, tuned for few slices by somebody who knows MONAI well.

They get what this software gives its own network: the working grid, held-out slices, bfloat16 where the device has it,
a learning rate that falls over the time there is, averaged weights, and crops that are centred on all classes equally
often. What else to choose depends on the data: each of several configurations learns for a part of the time, which
doesn't count, and the one with the best IoU on the held-out slices is measured.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import BasicUNet, DynUNet
from monai.transforms import (
    Compose,
    EnsureTyped,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    RandGaussianNoised,
    SpatialPadd,
)
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.learning import Trial
from lib.core.device.precision import half_precision, half_precision_of
from lib.core.labels import UNLABELLED
from lib.core.loss.cross_entropy import class_weights
from lib.core.loss.dice import dice_and_cross_entropy
from lib.core.training.cases import TrainingCase
from lib.core.training.learner import RunningAverage

from .monai import ANGLE, MULTIPLE, SCALING, balanced_crop, batches, class_places, kernels_and_strides
from .prepared import Prepared


class Scale(NamedTuple):
    """How large networks and patches are on a device.

    Attributes:
        width: features of a network's first level.
        patch: the largest patch.
    """

    width: int
    patch: tuple[int, ...]


SCALES = {"cpu": Scale(16, (80, 80, 48)), "cuda": Scale(32, (128, 128, 64))}
"""By device: on a processor half of the networks' own widths, for two cores; on a GPU all of them."""

PATCH_SHARE = 0.75
"""A patch has at most this share of a volume along each axis. If patches hold whole volumes, they all lie at the same
place, and a network learns the annotated slices by heart: on hippocampus, it had 0.31 instead of 0.82."""

LEAST_PATCH = 32
"""Least size of a patch along the longest axis: after four poolings, instance normalisation needs two voxels."""

WIDENING = 10
"""A coarse level of DynUNet has at most so many times the features of the first one, as in nnU-Net."""

Build = Callable[[Prepared, Scale], nn.Module]

LEARNING_RATE = 1e-3
DECAY = 0.9
AVERAGED = 0.95
"""Share of the running average of the weights that each step keeps; the first steps keep less."""

OVERLAP = 0.5
TUNING_SHARE = 1 / 3
"""Part of the time that each configuration learns for, to be chosen or not."""


class Configuration(NamedTuple):
    """What is chosen by the held-out slices.

    Attributes:
        class_balance: exponent of the class weights, see ``class_weights``.
        mirrored: whether patches are mirrored along each axis.
    """

    class_balance: float
    mirrored: bool


CONFIGURATIONS = tuple(map(Configuration._make, itertools.product((0.0, 1 / 3), (False, True))))


def learn_basicunet(trial: Trial, seed: int) -> None:
    """Train MONAI's ``BasicUNet``."""

    def build(prepared: Prepared, scale: Scale) -> nn.Module:
        features = [times * scale.width for times in (1, 1, 2, 4, 8, 1)]
        return BasicUNet(3, prepared.task.channels, prepared.task.classes, features)

    _learn(trial, seed, build)


def learn_dynunet(trial: Trial, seed: int) -> None:
    """Train MONAI's ``DynUNet``, with the kernels and strides that nnU-Net would choose for the patch."""

    def build(prepared: Prepared, scale: Scale) -> nn.Module:
        kernels, strides = kernels_and_strides(_patch(prepared, scale), prepared.voxel_size)
        filters = [scale.width * min(1 << level, WIDENING) for level in range(len(kernels))]
        channels, classes = prepared.task.channels, prepared.task.classes
        return DynUNet(3, channels, classes, kernels, strides, strides[1:], filters, norm_name="instance")

    _learn(trial, seed, build)


def learn_pytorch3dunet(trial: Trial, seed: int) -> None:
    """Train pytorch3dunet's ``ResidualUNet3D``."""
    from pytorch3dunet.unet3d.model import ResidualUNet3D

    def build(prepared: Prepared, scale: Scale) -> nn.Module:
        network: nn.Module = ResidualUNet3D(
            prepared.task.channels, prepared.task.classes, final_sigmoid=False, f_maps=scale.width, num_levels=4
        )
        return network

    _learn(trial, seed, build)


class _Training:
    """A network in training by a configuration on a device."""

    def __init__(self, prepared: Prepared, one: Configuration, seed: int, build: Build, device: str) -> None:
        torch.manual_seed(seed)
        self.prepared, self._one, self._seed, self._device = prepared, one, seed, device
        self._patch = _patch(prepared, SCALES[device])
        network = build(prepared, SCALES[device]).to(device)
        self.network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.averaged = RunningAverage(self.network, AVERAGED)
        self._precision = half_precision_of(device)
        targets = prepared.task.scheme.targets(np.arange(prepared.task.classes + 1))
        self._targets = torch.from_numpy(targets).to(device)
        counts = sum(
            np.bincount(values.ravel(), minlength=prepared.task.classes + 1) for values in prepared.training.values()
        )
        by_target = np.zeros(prepared.task.classes, dtype=np.int64)
        by_target[targets[1:]] = np.asarray(counts)[1:]
        self._weights = torch.tensor(class_weights(by_target.tolist(), one.class_balance), device=device)

    def steps(self, progress: Callable[[], float]) -> Iterator[float]:
        """Make steps without end; yield the progress, 0 … 1, after each."""
        optimiser = torch.optim.AdamW(self.network.parameters(), LEARNING_RATE)
        for batch in self._batches():
            done = progress()
            for group in optimiser.param_groups:
                group["lr"] = LEARNING_RATE * max(0.0, 1 - done) ** DECAY
            self.network.train()
            with half_precision(self._device, self._precision):
                logits = self.network(batch["image"].contiguous(memory_format=torch.channels_last_3d))
            # DynUNet and others return a tensor unless asked for deep supervision.
            loss = dice_and_cross_entropy(logits.float(), self._targets[batch["label"][:, 0].long()], self._weights)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            self.averaged.update_parameters(self.network)
            yield done

    def segment(self, case: TrainingCase) -> NDArray[np.uint8]:
        """Return the classes (X, Y, Z) of a volume."""
        prepared = self.prepared.images[case.id]
        network, size = self.averaged.module.eval(), prepared.grid.working
        image = prepared.image[None].to(self._device)
        with torch.no_grad(), half_precision(self._device, self._precision):
            logits = sliding_window_inference(
                image, self._patch, 1, network, overlap=OVERLAP, mode="gaussian", padding_mode="reflect"
            )
        probabilities = logits[0].float().softmax(0)
        assert probabilities.shape[1:] == size
        return self.prepared.classes(case, probabilities)

    def _batches(self) -> Iterator[dict[str, Tensor]]:
        both = ("image", "label")
        prepare = Compose(
            [
                SpatialPadd("image", self._patch, mode="reflect"),
                SpatialPadd("label", self._patch, mode="constant", value=UNLABELLED),
                class_places(self.prepared.task.classes),
                # Patches are cut and changed where the network computes.
                EnsureTyped(both, device=torch.device(self._device)),
            ]
        )
        items = [
            prepare({"image": self.prepared.images[name].image, "label": torch.from_numpy(values)[None]})
            for name, values in self.prepared.training.items()
        ]
        augmentation = _augmentation(self._patch, self.prepared.task.classes, self._one.mirrored)
        augmentation.set_random_state(self._seed)
        return batches(items, augmentation)


def _patch(prepared: Prepared, scale: Scale) -> tuple[int, ...]:
    """Return the sizes of patches."""
    largest = np.max(prepared.sizes, axis=0)
    sizes = np.maximum(MULTIPLE * (PATCH_SHARE * largest / MULTIPLE).astype(int), LEAST_PATCH // 2)
    sizes[largest.argmax()] = max(sizes[largest.argmax()], LEAST_PATCH)
    return tuple(np.minimum(sizes, scale.patch).tolist())


def _augmentation(patch: Sequence[int], classes: int, mirrored: bool) -> Compose:
    """Return the random transforms of each patch."""
    return Compose(
        [
            *balanced_crop(patch, classes),
            *(RandFlipd(("image", "label"), prob=0.5 * mirrored, spatial_axis=axis) for axis in range(3)),
            RandAffined(
                ("image", "label"),
                prob=0.5,
                rotate_range=[ANGLE] * 3,
                scale_range=[SCALING] * 3,
                mode=("bilinear", "nearest"),
                # Voxels from outside the patch are unlabelled.
                padding_mode=("reflection", "zeros"),
            ),
            RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5)),
            RandGaussianNoised("image", prob=0.15, std=0.05),
            EnsureTyped(("image", "label"), track_meta=False),
        ]
    )


def _learn(trial: Trial, seed: int, build: Build) -> None:
    """Choose a configuration, and train by it until the trial is over."""
    prepared = Prepared.of(trial.task, seed)
    with trial.clock.paused():
        seconds = TUNING_SHARE * trial.budget
        best = max(CONFIGURATIONS, key=lambda one: _tried(_Training(prepared, one, seed, build, trial.device), seconds))
    training = _Training(prepared, best, seed, build, trial.device)
    for _ in training.steps(lambda: trial.clock.seconds / trial.budget):
        if not trial.goes_on(training.segment):
            return


def _tried(training: _Training, seconds: float) -> float:
    """Return the IoU on the held-out slices that a training reaches in these seconds."""
    began = time.monotonic()
    for progress in training.steps(lambda: (time.monotonic() - began) / seconds):
        if progress >= 1:
            break
    return training.prepared.score(training.segment)
