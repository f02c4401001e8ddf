"""The plan: all that is decided from data and device before training, saved with the model as readable JSON."""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

from lib.core.annotation.slices import Unpainted
from lib.core.augmentation.deformation import DeformationSettings
from lib.core.augmentation.grey_values import GreyValueSettings
from lib.core.augmentation.settings import AugmentationSettings
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.network.architecture import Architecture
from lib.core.network.architectures import PAPER, architecture
from lib.core.network.batch_norm import OF_TRAINING, OF_VOLUME, WITHOUT_SEAMS, Statistics

from .options import PlanOptions, Recipe

Centres = Literal["classes", "voxels"]

PAPER_WIDTH = 32
PAPER_TILE = (132, 132, 116)

EARLIER_PADDED_CONTEXT = 14
"""Context of padded networks in earlier versions, which padded the analysis path only."""

LONGEST_GRADIENT = 5.0
"""Norm to which gradients are clipped with batch normalisation. Most norms are about 2. That of a nearly constant tile
is far larger, since batch normalisation then divides by almost zero."""


@dataclass(frozen=True)
class Plan:
    """What was decided before training.

    Attributes:
        scheme: the label scheme.
        channels: of the images.
        spacing: working voxel size along each axis in mm; None: each volume's own.
        width: feature maps of the first convolution.
        dims: 3, or 2 for the network of slices.
        batch_norm: whether the network normalises before each ReLU.
        statistics: which statistics batch normalisation uses outside training.
        chosen_from: statistics among which training chooses by its scores; empty if a person chose them.
        test_tile: input sizes of the tiles over which these statistics are taken.
        unpainted: what unpainted voxels in annotated slices counted as in training.
        tile: input sizes of training tiles.
        context: voxels of image around a training tile's output. If it is less than the network sees, the
            network is padded in training, see ``Architecture.build``.
        centres: what training tiles are centred on with equal probability: each of the ``classes``, or each labelled
            voxel (``voxels``).
        class_balance: exponent of the class weights, 0 (each voxel has the same weight) … 1 (each class has).
        learning_rate: at the start; it falls as (1 - progress)^decay.
        decay: see ``learning_rate``; with 0, the learning rate is constant.
        momentum: of the stochastic gradient descent.
        nesterov: whether the momentum is Nesterov's.
        averaging: share of the running average of the weights that each step keeps, 0 (no averaging) … 1. The average
            is scored and published.
        half_precision: whether to compute in half precision where the device supports it natively.
        steps_per_epoch: training steps between two reports.
        augmentation: strengths.
        recipe: the recipe by which the plan was made.
        network: name of the architecture.
        loss: name of the loss.
        voxel_size: median size of the training images' own voxels along each axis in mm; None in plans of earlier
            versions.
    """

    scheme: LabelScheme
    channels: int
    spacing: tuple[float, ...] | None
    width: int
    tile: tuple[int, ...]
    dims: int = 3
    batch_norm: bool = True
    context: int = PAPER.tiles.context
    statistics: Statistics = "mixed"
    chosen_from: tuple[Statistics, ...] = ()
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
    network: str = PAPER.name
    loss: str = "cross_entropy"
    voxel_size: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        tiles = self.architecture.tiles
        for tile in (self.tile, self.test_tile):
            invalid = [size for size in tile if not tiles.is_valid(size)]
            if invalid:
                nearest = tiles.next_valid(invalid[0])
                raise InputError(f"plan: tile {tile}: {invalid[0]} is no valid size; take {nearest}")
        if self.context not in (tiles.padded_context, tiles.context):
            raise InputError(f"plan: context {self.context}; expected {tiles.padded_context} or {tiles.context}")

    @property
    def architecture(self) -> Architecture:
        """The kind of network."""
        return architecture(self.network)

    @property
    def is_padded(self) -> bool:
        """Whether the network is padded in training: tiles have less context than the network sees."""
        return self.context < self.architecture.tiles.context

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values that ``from_json`` reads back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Plan":
        """Read what ``to_json`` wrote."""
        scheme, augmentation = values["scheme"], values["augmentation"]
        # Plans of earlier versions don't name their recipe.
        recipe = "paper" if values["averaging"] == 0 else "quick"
        tiles, context = architecture(values.get("network", PAPER.name)).tiles, values["context"]
        return cls(
            **{
                "recipe": recipe,
                **values,
                "context": tiles.padded_context if context == EARLIER_PADDED_CONTEXT else context,
                "scheme": LabelScheme(tuple(scheme["foreground"]), scheme["background"]),
                "spacing": None if values["spacing"] is None else tuple(values["spacing"]),
                "voxel_size": values.get("voxel_size") and tuple(values["voxel_size"]),
                "tile": tuple(values["tile"]),
                "chosen_from": tuple(values.get("chosen_from", ())),
                "test_tile": tuple(values.get("test_tile", PAPER_TILE)),
                "augmentation": AugmentationSettings(
                    DeformationSettings(**augmentation["deformation"]),
                    GreyValueSettings(**augmentation["grey_values"]),
                ),
            }
        )

    @property
    def keeps_averages(self) -> bool:
        """Whether the published network has averages of batch normalisation's statistics over training tiles."""
        return self._may_use(OF_TRAINING)

    @property
    def passes_volumes(self) -> bool:
        """Whether batch normalisation may take statistics in a pass over each volume."""
        return self._may_use(OF_VOLUME)

    def _may_use(self, statistics: Collection[Statistics]) -> bool:
        """Return whether some of these statistics are in use, or may be chosen in training."""
        return self.batch_norm and any(each in statistics for each in (self.statistics, *self.chosen_from))

    def agrees_with(self, options: PlanOptions) -> bool:
        """Return whether the plan agrees with what a person decided about the network and its training."""
        return (
            options.width in (None, self.width)
            and options.spacing in (None, self.spacing)
            and options.loss in (None, self.loss)
            and (options.recipe, options.network) == (self.recipe, self.network)
        )

    def with_statistics(self, options: PlanOptions) -> "Plan":
        """Return the plan for segmenting by the statistics that a person chose.

        Raises:
            InputError: these statistics need averages that weren't kept in training.
        """
        wanted = options.statistics or self.statistics
        if self.batch_norm and wanted in OF_TRAINING and not self.keeps_averages:
            raise InputError(
                f"--conf statistics {wanted}: the model was trained without averages; continue training with this "
                f"setting, or start the server with --conf statistics {self.statistics}"
            )
        return dataclasses.replace(self, statistics=wanted)

    def continued(self, options: PlanOptions) -> "Plan":
        """Return the plan for continued training, with the options that a person may change then."""
        return dataclasses.replace(self.with_choice(options), unpainted=options.unpainted)

    def with_choice(self, options: PlanOptions) -> "Plan":
        """Return the plan for training with the statistics that a person chose, or else with a choice among several.

        A choice that was made before is kept until another one is made.
        """
        by_score = self.batch_norm and self.recipe == "quick" and options.statistics is None
        chosen_from = WITHOUT_SEAMS if by_score else ()
        return dataclasses.replace(self, statistics=options.statistics or self.statistics, chosen_from=chosen_from)
