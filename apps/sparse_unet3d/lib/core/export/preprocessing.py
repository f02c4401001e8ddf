"""What other software has to do before and after the network, as JSON values."""

from typing import Any

from lib.core.network.tile_sizes import TileSizes
from lib.core.plan.plan import Plan
from lib.core.volumes.intensity import CONSTANT_SHARE, LEAST_REST, PERCENTILES, SAMPLE

PIECE_WORK = 100_000_000
"""Most voxels of a piece that is computed at once, times the network's width: some 3 GB in float32."""

THINNEST = 56
"""Least side of a piece without its margin. It makes pieces longer than those in which mirroring takes another way."""


def preprocessing(plan: Plan) -> dict[str, Any]:
    """Return all that has to be known to segment an image by an exported network.

    Returns:
        JSON values; each has an explanation in ``meaning``.
    """
    tiles = plan.architecture.tiles
    core, margin = piece_sizes(plan.width, tiles)
    return {
        "channels": plan.channels,
        "classes": ["background", *plan.scheme.foreground],
        "painted_background": plan.scheme.background,
        "percentiles": PERCENTILES,
        "sampled_values": SAMPLE,
        "constant_share": (CONSTANT_SHARE, 1 - LEAST_REST),
        "spacing_mm": plan.spacing,
        "core": core,
        "margin": margin,
        "lattice": tiles.lattice,
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
    "core": "large images are computed in pieces of this side in voxels, which start at multiples of the lattice,",
    "margin": "with this many voxels more on each side inside the image, whose results are dropped",
    "lattice": "the last piece starts at the least multiple from which it reaches the image's end",
}


def piece_sizes(width: int, tiles: TileSizes) -> tuple[int, int]:
    """Return the side of a piece without its margin, and the margin, in voxels; both are multiples of the lattice."""
    margin = -(-tiles.context // tiles.lattice) * tiles.lattice
    side = int((PIECE_WORK / width) ** (1 / 3))
    return max(THINNEST, (side - 2 * margin) // tiles.lattice * tiles.lattice), margin
