"""Figure 3: a dense segmentation as surfaces."""

import numpy as np
from matplotlib.colors import LightSource, to_rgb
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d import Axes3D
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.measure import marching_cubes

from lib.report.pictures import png_of_figure

SMOOTHING = 0.7
"""Standard deviation in voxels; hides the steps between voxels."""

MOST_TRIANGLES = 120_000
"""More triangles look the same and take minutes to draw."""


def draw_surfaces(labels: NDArray[np.uint8], spacing: tuple[float, ...], colours: list[str]) -> bytes:
    """Draw each class as a surface, the first opaque and the others translucent.

    Args:
        labels: (X, Y, Z), 0 background, 1 … K foreground.
        spacing: voxel size along each axis.
        colours: colour of each class, as ``#rrggbb``.

    Returns:
        A PNG file: a view obliquely from above, x to the right, z up.
    """
    figure = Figure(figsize=(10, 7), facecolor="white")
    axes = Axes3D(figure, rect=(0, 0, 1, 1), computed_zorder=False)
    figure.add_axes(axes)
    light = LightSource(azdeg=315, altdeg=55)
    for value, colour in enumerate(colours, start=1):
        smoothed = gaussian_filter(np.pad(labels == value, 2).astype(np.float32), SMOOTHING)
        # Smoothing leaves nothing of a missing class or of single voxels.
        if smoothed.max() <= 0.5:
            continue
        step = 1
        while True:
            corners, faces, _, _ = marching_cubes(smoothed, 0.5, spacing=spacing, step_size=step)
            if len(faces) <= MOST_TRIANGLES:
                break
            step += 1
        triangles = corners[faces]
        normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
        shade = 0.35 + 0.65 * np.abs(normals @ light.direction)
        rgba = np.column_stack([shade[:, None] * to_rgb(colour), np.full(len(shade), 1.0 if value == 1 else 0.2)])
        axes.add_collection3d(
            Poly3DCollection(triangles, facecolors=rgba, edgecolors="none", zorder=value, clip_on=False)
        )
    extent = np.array(labels.shape) * spacing
    axes.set(xlim=(0, extent[0]), ylim=(0, extent[1]), zlim=(0, extent[2]))
    axes.set_box_aspect(extent, zoom=1.35)
    axes.view_init(elev=38, azim=-65)
    axes.set_axis_off()
    return png_of_figure(figure, dpi=110)
