"""Records of simulated annotators, as ``play`` returns them."""

from typing import Any


def record(strategy: str, seed: int, iou: list[float]) -> dict[str, Any]:
    """Return a game with this curve; boundaries are 2 long in each slice, each slice holds a tenth of the voxels."""
    slices = list(range(3, 3 + len(iou)))
    return {
        "strategy": strategy,
        "seed": seed,
        "slices": slices,
        "iou": iou,
        "iou_unannotated": [value - 0.1 for value in iou],
        "labelled": [0.1 * count for count in slices],
        "places": [],
        "lengths": [2] * 9,
        "commit": "abc",
        "machine": "a GPU",
    }
