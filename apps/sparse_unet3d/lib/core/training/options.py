"""What a person sets for one training."""

from dataclasses import dataclass
from typing import Literal, get_args

from lib.core.errors import InputError, check_one_of

Start = Literal["continue", "afresh"]


@dataclass(frozen=True)
class TrainingOptions:
    """What a person sets for one training.

    Attributes:
        max_epochs: training ends after this many epochs,
        max_minutes: or after this many minutes, if that is earlier; 0 for no limit. The last score is expected to take
            as long as the one before, and training steps end so much earlier, at most half of the time. How long the
            first score takes isn't known.
        start: ``continue`` where the last training stood, or ``afresh`` with an untrained network.
        seed: of all randomness.

    Raises:
        InputError: a value that isn't possible.
    """

    max_epochs: int = 100
    max_minutes: float = 0.0
    start: Start = "continue"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_epochs < 1:
            raise InputError(f"max_epochs: {self.max_epochs}; give a whole number of at least 1")
        if self.max_minutes < 0:
            raise InputError(f"max_minutes: {self.max_minutes}; give 0 (no limit) or more")
        check_one_of("start", self.start, get_args(Start))
