"""The numbers that the paper prints."""

from collections.abc import Mapping

SLICES = ((7, 5, 21), (6, 7, 12), (4, 5, 10))
"""Annotated slices of the paper's three samples, across x, y and z (yz, xz and xy slices; section 3.1)."""

TABLE_2_SLICES = ((1, 1, 1), (2, 2, 1), (3, 3, 2), (5, 5, 3))
"""Annotated slices of one sample across x, y and z; only this order fits the printed percentages."""

TABLE_1: tuple[Mapping[str, float], ...] = (
    {"3d_no_bn": 0.822, "3d_bn": 0.855, "2d_bn": 0.785},
    {"3d_no_bn": 0.857, "3d_bn": 0.871, "2d_bn": 0.820},
    {"3d_no_bn": 0.846, "3d_bn": 0.863, "2d_bn": 0.782},
)
"""IoU by subset of the annotated slices, semi-automated."""

TABLE_2: tuple[tuple[float, ...], ...] = (
    (0.331, 0.483, 0.475),
    (0.676, 0.579, 0.738),
    (0.761, 0.808, 0.835),
    (0.856, 0.849, 0.872),
)
"""IoU of the 3-D network with batch normalisation: a row for each number of slices, a column for each sample."""

TABLE_2_LABELLED = (2.5, 3.3, 5.7, 8.9)
"""Labelled voxels in percent."""

TABLE_3: tuple[Mapping[str, float], ...] = (
    {"3d_no_bn": 0.655, "3d_bn": 0.761, "2d_bn": 0.619},
    {"3d_no_bn": 0.734, "3d_bn": 0.798, "2d_bn": 0.698},
    {"3d_no_bn": 0.779, "3d_bn": 0.554, "2d_bn": 0.325},
)
"""IoU by test volume, fully automated."""

AVERAGES: Mapping[str, Mapping[str, float]] = {
    "table1": {"3d_no_bn": 0.842, "3d_bn": 0.863, "2d_bn": 0.796},
    "table3": {"3d_no_bn": 0.723, "3d_bn": 0.704, "2d_bn": 0.547},
}
"""Averages as printed below the columns."""
