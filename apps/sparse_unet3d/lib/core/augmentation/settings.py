"""How strongly training tiles are changed."""

from dataclasses import dataclass, field

from .deformation import DeformationSettings
from .grey_values import GreyValueSettings


@dataclass(frozen=True)
class AugmentationSettings:
    """All that is random in a training tile but for its place."""

    deformation: DeformationSettings = field(default_factory=DeformationSettings)
    grey_values: GreyValueSettings = field(default_factory=GreyValueSettings)
