"""Predictions in the format of their image, where other programs look for them."""

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lib.core.colours import colours
from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.volumes.formats import format_of
from lib.core.volumes.ome_zarr import OmeZarrSource
from lib.core.volumes.ome_zarr_labels import write_label_image
from lib.core.volumes.reading import open_image, write_label_map
from lib.core.volumes.tiff import TiffSource
from lib.core.volumes.volume import Affine

logger = logging.getLogger(__name__)

FOLDER = "predictions"
"""Folder of predictions as TIFF, in the studies folder."""

IN_ZARR = "prediction"
"""Name of the label image in an OME-Zarr image."""


def write_like_image(
    studies: Path, image_id: str, path: Path, prediction: NDArray[np.uint8], affine: Affine, scheme: LabelScheme
) -> None:
    """Write a prediction as TIFF if its image is, or into its OME-Zarr image. If that fails, the log says so.

    Args:
        studies: the studies folder.
        image_id: the image.
        path: its path.
        prediction: (X, Y, Z), 0 background, 1 … K foreground.
        affine: (4, 4) of the image.
        scheme: the label scheme.
    """
    opens = format_of(path).open
    if opens not in (OmeZarrSource, TiffSource):
        return
    try:
        source = open_image(path)
        if isinstance(source, OmeZarrSource):
            names = {0: scheme.background, **dict(enumerate(scheme.foreground, start=1))}
            red_green_blue = {
                value: (r, g, b) for value, (r, g, b) in enumerate(colours(scheme)[:-1].tolist()) if value
            }
            write_label_image(source.image.group, IN_ZARR, prediction, source, names, red_green_blue)
        else:
            write_label_map(studies / FOLDER / f"{image_id}.ome.tif", prediction, affine)
    except (InputError, OSError) as error:
        logger.error("The prediction of %s isn't written in the format of its image: %s", image_id, error)
