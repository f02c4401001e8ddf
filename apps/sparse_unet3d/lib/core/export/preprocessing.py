"""What other software has to do before and after the network, as JSON values."""

from typing import Any

from lib.core.network.tile_sizes import TileSizes
from lib.core.plan.plan import Plan
from lib.core.volumes.intensity import CONSTANT_SHARE, LEAST_REST, PERCENTILES, SAMPLE

PIECE_WORK = 110_000_000
"""Most voxels of a piece and of what the network sees around it, times the network's width. At widths of 8 and 32, a
piece took 2 to 2.5 GB by torch, and 3 GB by onnxruntime."""

SMALLEST_PIECE = 24
"""Least side of a piece. Smaller ones would take hardly less memory, and far longer for the whole image."""


def preprocessing(plan: Plan) -> dict[str, Any]:
    """Return all that has to be known to segment an image by an exported network.

    Returns:
        JSON values; each has an explanation in ``meaning``.
    """
    return {
        "channels": plan.channels,
        "classes": ["background", *plan.scheme.foreground],
        "painted_background": plan.scheme.background,
        "percentiles": PERCENTILES,
        "sampled_values": SAMPLE,
        "constant_share": (CONSTANT_SHARE, 1 - LEAST_REST),
        "spacing_mm": plan.spacing,
        "piece": piece_side(plan.width, plan.architecture.tiles),
        "meaning": MEANING,
    }


MEANING = {
    "channels": "channels of the image, in the order of those trained on; the image's axes are channel, X, Y, Z",
    "classes": "labels are the numbers of these classes, counted from 0",
    "percentiles": "of each channel, become 0 and 1, linearly; values beyond are clipped",
    "sampled_values": "if there are more values than this, percentiles are those of every n-th one, Z fastest; n is "
    "the least number by which no more are taken and which has no factor in common with the number of values",
    "constant_share": "if the most frequent of these values makes up a share between the two, percentiles leave it "
    "out. If it lies beyond a percentile that is the least (greatest) of the others, the range is widened towards it "
    "by up to a half. If the percentiles are equal, take those with the value; if these are, least and greatest value",
    "spacing_mm": "size of a working voxel along X, Y, Z. The image is resampled linearly to round(length * own / "
    "working) voxels over the same extent, along axes that get coarser after a Gaussian of (old / new - 1) / 2 voxels, "
    "zeros outside. Probabilities are resampled back linearly. null: nothing is resampled",
    "piece": "side in voxels of the boxes in which a large image is computed, from the first voxel on. Less takes less "
    "memory, but it has to be a multiple of 8",
}


def piece_side(width: int, tiles: TileSizes) -> int:
    """Return the side in voxels of the pieces in which a large image is computed, a multiple of the lattice."""
    side = int((PIECE_WORK / width) ** (1 / 3)) - 2 * tiles.context
    return max(SMALLEST_PIECE, side // tiles.lattice * tiles.lattice)
