"""The plan: all that is decided from data and machine before training, saved with the model as readable JSON."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch

from .annotations import Unpainted
from .deformation import DeformationSettings
from .errors import InputError
from .grey_values import GreyValueSettings
from .inference import SAMPLED, STATISTICS_WORK
from .labels import LabelScheme
from .normalisation import OF_TRAINING, Statistics
from .sampling import AugmentationSettings, Centres
from .tiles import CONTEXT, choose_training_tile, given_shape, input_size, is_valid, next_valid
from .volumes import Volume
from .working_grid import WorkingGrid

Recipe = Literal["quick", "paper"]

PAPER_WIDTH = 32
PAPER_TILE = (132, 132, 116)

TILE_VOXELS = 2_250_000
"""Most voxels that are given of a training tile on a GPU; of the paper's there are two millions."""

CPU_TILE_VOXELS = 350_000
"""The same on a CPU: in the same time, many steps on small tiles were measured to teach a network more than few on
large ones, down to about this size."""

CPU_CONTEXT = 14
"""Voxels around the output that are given of a training tile on a CPU. With all 44 that the network sees, a step with
as much output takes several times as long, and in the minutes that there are it was not seen to teach more."""

CPU_WIDTH = 8
"""Default width without a GPU: on the paper's tile, a step of its width takes about 15 s on two cores, of this 2 s."""

LARGE = 3
"""A volume with so many times the voxels that fit at once is sampled at several places rather than at one."""

LONGEST_GRADIENT = 5.0
"""Longest gradient that is stepped along with batch normalisation. Most are about 2 long; that of a nearly constant
tile is far longer, since batch normalisation then divides by next to nothing."""

MOST_ELONGATED = 2.0
"""Largest ratio between the sides of a working voxel; the paper's are nearly cubes (1.76 × 1.76 × 2.04 µm)."""


@dataclass(frozen=True)
class PlanOptions:
    """What a person may decide; None leaves it to ``make_plan``.

    Attributes:
        width: feature maps of the first convolution.
        spacing: working voxel size along each axis, in the image's unit.
        statistics: which statistics batch normalisation uses outside training.
        unpainted: what unpainted voxels in annotated slices count as; the paper's by default.
        recipe: how to train: ``quick``, or as in the ``paper`` wherever nothing else is decided.

    Raises:
        InputError: a value outside what is possible.
    """

    width: int | None = None
    spacing: tuple[float, ...] | None = None
    statistics: Statistics | None = None
    unpainted: Unpainted = "unlabelled"
    recipe: Recipe = "quick"

    def __post_init__(self) -> None:
        if self.width is not None and self.width < 1:
            raise InputError(f"width: {self.width} feature maps; give a whole number of at least 1, the paper's is 32")
        if self.spacing is not None and (len(self.spacing) != 3 or not all(0 < s < math.inf for s in self.spacing)):
            raise InputError(f"spacing: {self.spacing}; give three positive numbers, e.g. 1.76,1.76,2.04")
        if self.statistics is not None and self.statistics not in get_args(Statistics):
            raise InputError(f"statistics: {self.statistics!r}; give one of {', '.join(get_args(Statistics))}")
        if self.unpainted not in get_args(Unpainted):
            raise InputError(f"unpainted: {self.unpainted!r}; give one of {', '.join(get_args(Unpainted))}")
        if self.recipe not in get_args(Recipe):
            raise InputError(f"recipe: {self.recipe!r}; give one of {', '.join(get_args(Recipe))}")


@dataclass(frozen=True)
class Plan:
    """What was decided before training.

    Attributes:
        scheme: the label scheme.
        channels: of the images.
        spacing: working voxel size along each axis; None: each volume's own.
        width: feature maps of the first convolution.
        dims: 3, or 2 for the network of slices.
        batch_norm: whether the network normalises before each ReLU.
        statistics: which ones it uses outside training.
        test_tile: input sizes of the tiles over which these are taken.
        unpainted: what unpainted voxels in annotated slices counted as in training.
        tile: input sizes of training tiles.
        context: voxels around a training tile's output that are given; beyond, the tile repeats itself.
        centres: what training tiles are centred on with equal probability: each of the ``classes``, or each labelled
            voxel (``voxels``).
        class_balance: exponent of the class weights, 0 (each voxel has the same weight) … 1 (each class has).
        learning_rate: at the start; it falls as (1 - progress)^decay.
        decay: 0 keeps the learning rate as it is.
        momentum: of the stochastic gradient descent.
        nesterov: whether the momentum is Nesterov's.
        averaging: share of the running average of the weights that stays in each step, 0 (no averaging) … 1; the
            average is what is scored and published.
        half_precision: whether to compute in half precision where the device does so natively.
        steps_per_epoch: training steps between two reports.
        augmentation: strengths.
        recipe: what all this was decided by.
    """

    scheme: LabelScheme
    channels: int
    spacing: tuple[float, ...] | None
    width: int
    tile: tuple[int, ...]
    dims: int = 3
    batch_norm: bool = True
    context: int = CONTEXT
    statistics: Statistics = "mixed"
    test_tile: tuple[int, ...] = PAPER_TILE
    unpainted: Unpainted = "unlabelled"
    centres: Centres = "classes"
    class_balance: float = 1 / 3
    learning_rate: float = 0.05
    decay: float = 0.9
    momentum: float = 0.9
    nesterov: bool = True
    averaging: float = 0.95
    half_precision: bool = True
    steps_per_epoch: int = 10
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    recipe: Recipe = "quick"

    def __post_init__(self) -> None:
        for tile in (self.tile, self.test_tile):
            invalid = [size for size in tile if not is_valid(size)]
            if invalid:
                raise InputError(f"plan: tile {tile}: {invalid[0]} is no valid size; take {next_valid(invalid[0])}")

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values that ``from_json`` reads back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Plan":
        """Read what ``to_json`` wrote."""
        scheme, augmentation = values["scheme"], values["augmentation"]
        # Plans of earlier versions don't name it.
        recipe = "paper" if values["averaging"] == 0 else "quick"
        return cls(
            **{
                "recipe": recipe,
                **values,
                "scheme": LabelScheme(tuple(scheme["foreground"]), scheme["background"]),
                "spacing": None if values["spacing"] is None else tuple(values["spacing"]),
                "tile": tuple(values["tile"]),
                "test_tile": tuple(values.get("test_tile", PAPER_TILE)),
                "augmentation": AugmentationSettings(
                    DeformationSettings(**augmentation["deformation"]),
                    GreyValueSettings(**augmentation["grey_values"]),
                ),
            }
        )

    def differences(self) -> list[str]:
        """Say in which ways the network and its training aren't as the paper states, and why."""
        found = {
            f"width {self.width} instead of {PAPER_WIDTH}: a step takes a fraction of the time": self.width
            != PAPER_WIDTH,
            f"tile {self.tile} instead of {PAPER_TILE}: more output, so more labelled voxels, for the time of a step": (
                self.tile != PAPER_TILE
            ),
            f"{self.context} voxels around a training tile's output instead of {CONTEXT}, beyond which the input wraps "
            "around: a step takes a fraction of the time": self.context != CONTEXT,
            f"class weights are the number of voxels to the power of -{self.class_balance:.2g}, and training tiles are "
            "centred on all classes equally often, instead of weights alone that give each class the same influence: "
            "rare classes are learnt sooner": (self.class_balance, self.centres) != (1, "voxels"),
            f"the learning rate falls to 0 as (1 - progress)^{self.decay:g}: the last steps change less": self.decay
            > 0,
            "the average of the last steps' weights is used: scores jump less, and higher ones come sooner": (
                self.averaging > 0
            ),
            "half precision where the device computes in it natively: it is faster": self.half_precision,
            f"batch normalisation by {self.statistics} statistics outside training, instead of each tile's own: scored "
            "better, and tiles fit without seams": self.statistics != "tile",
            f"test tile {self.test_tile} instead of {PAPER_TILE}": self.statistics == "tile"
            and self.test_tile != PAPER_TILE,
            f"unpainted voxels in annotated slices count as {self.scheme.background}": self.unpainted == "background",
            "no batch normalisation": not self.batch_norm,
            "a 2-D network": self.dims == 2,
        }
        return [what for what, differs in found.items() if differs]

    def choices(self) -> list[str]:
        """Say what the paper leaves open, and what was chosen."""
        deformation, grey_values = self.augmentation.deformation, self.augmentation.grey_values
        momentum = f"{'Nesterov ' if self.nesterov else ''}momentum {self.momentum:g}"
        centres = "on each class equally often" if self.centres == "classes" else "on each labelled voxel equally often"
        return [
            f"learning rate {self.learning_rate:g}, {momentum}; no weight decay",
            "the number of steps is that of the training's options (the paper: 70 000), one tile each",
            f"training tiles are centred {centres}; beyond the image's border its mirror image is seen",
            f"rotation up to ±{deformation.rotation:g}° about each axis, scaling by up to {deformation.scaling:.0%}",
            f"grey values: a smooth rising curve, its slope changed by a factor of e^±{grey_values.slope_sd:g}, its "
            f"offset by {grey_values.offset_sd:g} (standard deviations; the image's range is 0 … 1)",
            "a deformed label is that of the nearest voxel",
            "tiles in which the image is constant are drawn again",
            "intensities: each channel's percentiles 0.5 and 99.5 become 0 and 1; large constant parts don't count",
            "weights begin as in He et al. 2015; an up-convolution begins as nearest-neighbour up-sampling does, with "
            "the same weight for all voxels that come of a feature",
            "the loss is divided by the sum of the weights",
            f"with batch normalisation, gradients longer than {LONGEST_GRADIENT:g} are shortened to that",
            "no step is made along a gradient that isn't finite",
        ]

    def agrees_with(self, options: PlanOptions) -> bool:
        """Tell whether nothing that a person decided about the network contradicts the plan."""
        return (
            options.width in (None, self.width)
            and options.spacing in (None, self.spacing)
            and options.recipe == self.recipe
        )

    def with_statistics(self, options: PlanOptions) -> "Plan":
        """Return the plan for segmenting by the statistics that a person chose.

        Raises:
            InputError: these are averages that weren't kept in training.
        """
        wanted = options.statistics or self.statistics
        if wanted in OF_TRAINING and self.statistics not in OF_TRAINING:
            raise InputError(
                f"--conf statistics {wanted}: the model was trained without averages; train on with this, or start the "
                f"server by --conf statistics {self.statistics}"
            )
        return dataclasses.replace(self, statistics=wanted)

    def continued(self, options: PlanOptions) -> "Plan":
        """Return the plan for going on with training, with all that a person may choose anew then."""
        return dataclasses.replace(self, statistics=options.statistics or self.statistics, unpainted=options.unpainted)


def make_plan(volumes: Sequence[Volume], scheme: LabelScheme, options: PlanOptions, device: str) -> Plan:
    """Decide on the plan for a set of annotated volumes.

    On a GPU the network is the paper's, and about as much is given of a training tile; on a CPU it is narrower, and
    the tile smaller, with less context. The tile has the shape with the most output for what is given of it.

    Args:
        volumes: at least one, all of the same number of channels.
        scheme: the label scheme.
        options: what a person decided.
        device: ``cpu`` or ``cuda``.
    """
    on_cpu = torch.device(device).type == "cpu"
    spacing = options.spacing or _nearly_cubic(np.median([volume.spacing for volume in volumes], axis=0).tolist())
    largest = np.max([WorkingGrid.of(volume.shape, volume.spacing, spacing).working for volume in volumes], axis=0)
    context = CPU_CONTEXT if on_cpu else CONTEXT
    tile = choose_training_tile(largest.tolist(), CPU_TILE_VOXELS if on_cpu else TILE_VOXELS, context)
    plan = Plan(
        scheme=scheme,
        channels=volumes[0].channels,
        spacing=spacing,
        width=options.width or (CPU_WIDTH if on_cpu else PAPER_WIDTH),
        unpainted=options.unpainted,
        tile=tile,
        context=context,
    )
    if options.recipe == "paper":
        plan = as_in_paper(dataclasses.replace(plan, width=options.width or PAPER_WIDTH))
    else:
        plan = dataclasses.replace(plan, test_tile=_choose_test_tile(largest.tolist(), plan.width))
    return dataclasses.replace(plan, statistics=options.statistics or plan.statistics)


def as_in_paper(plan: Plan) -> Plan:
    """Return the plan with all that the paper states about training and testing; its width and spacing stay."""
    return dataclasses.replace(
        plan,
        recipe="paper",
        tile=PAPER_TILE,
        context=CONTEXT,
        statistics="tile",
        test_tile=PAPER_TILE,
        centres="voxels",
        class_balance=1.0,
        decay=0.0,
        nesterov=False,
        averaging=0.0,
        half_precision=False,
    )


def _choose_test_tile(shape: Sequence[int], width: int) -> tuple[int, ...]:
    """Choose the tile that statistics are taken of: a whole volume where memory allows that on any computer.

    Otherwise one tile that has a good part of it, or of a large volume one of several.
    """
    most = STATISTICS_WORK // width
    if math.prod(shape) > LARGE * most:
        most //= SAMPLED
    return choose_training_tile(shape, most, CONTEXT)


def _nearly_cubic(voxel_size: Sequence[float]) -> tuple[float, ...] | None:
    """Return a working voxel size for volumes whose voxels are far from cubes; None where their own will do.

    The network's context is 88 voxels along each axis. Where the voxels of one axis are over twice as large as those
    of another, the finer axes are coarsened to half the largest size, so that it sees about as far along all of them.
    """
    largest = max(voxel_size)
    if largest <= MOST_ELONGATED * min(voxel_size):
        return None
    return tuple(max(float(size), float(largest) / MOST_ELONGATED) for size in voxel_size)


def one_pass_voxels(shape: Sequence[int]) -> int:
    """Return the input voxels given for one pass over a whole volume of this working shape, border included."""
    return math.prod(given_shape(shape, [input_size(length) for length in shape]))
