"""The strengths of all augmentation."""

from dataclasses import dataclass, field

from .deformation import DeformationSettings
from .grey_values import GreyValueSettings


@dataclass(frozen=True)
class AugmentationSettings:
    """Strengths of everything that is random in a training tile, except for its position."""

    deformation: DeformationSettings = field(default_factory=DeformationSettings)
    grey_values: GreyValueSettings = field(default_factory=GreyValueSettings)
