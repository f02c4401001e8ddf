"""The colours of classes, in pictures and in label images."""

import numpy as np
from numpy.typing import NDArray

from .labels import LabelScheme

# Okabe and Ito's colours, which people with colour-blindness can tell apart; the first two are the samples' classes.
FOREGROUND_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00")
BACKGROUND_COLOUR = "#cc79a7"


def colours(scheme: LabelScheme) -> NDArray[np.uint8]:
    """Return each class's colour, (K+2, 3), by annotation value; entry 0 is never shown."""
    count = len(scheme.foreground)
    table = ["#000000", *(FOREGROUND_COLOURS[i % len(FOREGROUND_COLOURS)] for i in range(count)), BACKGROUND_COLOUR]
    return np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in table], np.uint8)
