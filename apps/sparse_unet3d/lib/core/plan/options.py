"""What a person may decide about the plan."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from lib.core.annotation.slices import Unpainted
from lib.core.errors import InputError, check_one_of
from lib.core.loss.losses import loss_named
from lib.core.network.architectures import architecture
from lib.core.network.batch_norm import Statistics

Recipe = Literal["quick", "paper"]


@dataclass(frozen=True)
class PlanOptions:
    """What a person may decide; None leaves it to ``make_plan``.

    Attributes:
        width: feature maps of the first convolution.
        spacing: working voxel size along each axis, in mm.
        statistics: which statistics batch normalisation uses outside training.
        unpainted: what unpainted voxels in annotated slices count as; as in the paper by default.
        recipe: how to train: ``quick``, or as in the ``paper`` except for what is decided here.
        network: name of an architecture.
        loss: name of a loss; by default ``cross_entropy`` for the recipe ``paper``, else ``dice_cross_entropy``.

    Raises:
        InputError: a value that isn't possible.
    """

    width: int | None = None
    spacing: tuple[float, ...] | None = None
    statistics: Statistics | None = None
    unpainted: Unpainted = "unlabelled"
    recipe: Recipe = "quick"
    network: str = "unet"
    loss: str | None = None

    def __post_init__(self) -> None:
        if self.width is not None and self.width < 1:
            raise InputError(f"width: {self.width} feature maps; give a whole number of at least 1, the paper's is 32")
        if self.spacing is not None and (len(self.spacing) != 3 or not all(0 < s < math.inf for s in self.spacing)):
            raise InputError(f"spacing: {self.spacing}; give three positive numbers, e.g. 1.76,1.76,2.04")
        if self.statistics is not None:
            check_one_of("statistics", self.statistics, get_args(Statistics))
        check_one_of("unpainted", self.unpainted, get_args(Unpainted))
        check_one_of("recipe", self.recipe, get_args(Recipe))
        architecture(self.network)
        if self.loss is not None:
            loss_named(self.loss)
