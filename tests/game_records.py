"""Records of simulated annotators, as their files hold them."""

from experiments.annotators import GameRecord


def record(strategy: str, seed: int, iou: list[float]) -> GameRecord:
    """Return a game with this curve; each slice has boundaries of length 2 and a tenth of the voxels."""
    slices = list(range(3, 3 + len(iou)))
    return {
        "strategy": strategy,
        "seed": seed,
        "slices": slices,
        "iou": iou,
        "iou_unannotated": [value - 0.1 for value in iou],
        "labelled": [0.1 * count for count in slices],
        "foreground": [0.1 * count for count in slices],
        "places": [],
        "lengths": [2] * 9,
        "seconds": 1.0,
        "commit": "abc",
        "machine": "a GPU",
        "settings": {"checksum": 0, "code": 0, "course": [2, 1, 6], "plan": {}},
    }
