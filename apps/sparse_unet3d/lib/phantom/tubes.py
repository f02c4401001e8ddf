"""Convoluted tubes that grow around each other in a box: tubules and vessels of a phantom. Lengths are in µm."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Tubes:
    """Tubes and blobs of one kind, as dense points on their centre lines.

    Attributes:
        points: (N, 3) in µm.
        radius: (N,), outer radius at each point in µm.
        lumen: (N,), radius of the lumen as a fraction of the outer radius.
    """

    points: Floats
    radius: Floats
    lumen: Floats


class _Grown:
    """The tubes of one kind as obstacles: points on their centre lines, a third of the radius apart, in µm."""

    def __init__(self) -> None:
        self.points = np.empty((0, 3))
        self.radii = np.empty(0)
        self.tree = cKDTree(self.points)

    def add(self, line: Floats, radius: float) -> None:
        self.points = np.vstack([self.points, line])
        self.radii = np.append(self.radii, np.full(len(line), radius))
        self.tree = cKDTree(self.points)

    def distance(self, points: Floats) -> Floats:
        """Return the distance (N,) of points (N, 3) from the surface of the nearest tube.

        Only the three nearest points of centre lines count: tubes of one kind differ too little in radius for further
        points to matter.
        """
        if not len(self.points):
            return np.full(len(points), np.inf)
        distance, index = self.tree.query(points, k=min(3, len(self.points)))
        distance, index = distance.reshape(len(points), -1), index.reshape(len(points), -1)
        nearest: Floats = (distance - self.radii[index]).min(axis=1)
        return nearest


class Space:
    """The box that tubes grow in, and the tubes so far. Lengths are in µm."""

    def __init__(self, size: Floats, rng: np.random.Generator) -> None:
        self.size = size
        self.rng = rng
        self.kinds: list[_Grown] = []

    def clearance(self, points: Floats, radius: float) -> Floats:
        """Return the free distance (N,) from spheres of ``radius`` around ``points`` (N, 3) to all earlier tubes."""
        free = np.full(len(points), np.inf)
        for kind in self.kinds:
            free = np.minimum(free, kind.distance(points) - radius)
        return free

    def fill(self, volume: float, radius: float, length: float, gap: float, variation: float, lumen: float) -> Tubes:
        """Grow tubes until they fill a volume or find no more room.

        Args:
            volume: volume to fill in µm³.
            radius: mean radius of the tubes in µm.
            length: greatest length of a tube in µm.
            gap: distance from other tubes that is kept free, in µm.
            variation: variation of the radius between tubes, and along each tube, as a fraction of the radius.
            lumen: mean radius of the lumen as a fraction of the tube's; 0 for none.
        """
        grown: list[Tubes] = []
        kind = _Grown()
        self.kinds.append(kind)
        filled, failures = 0.0, 0
        while filled < volume and failures < 20:
            own = radius * self.rng.uniform(1 - variation / 2, 1 + variation / 2)
            room = (volume - filled) / (np.pi * own**2)
            line = self._line(own, min(length, room), gap)
            if line is None:
                failures += 1
                continue
            tube = self._tube(line, own, variation, lumen)
            grown.append(tube)
            inner = np.all((tube.points > -own / 2) & (tube.points < self.size + own / 2), axis=1)
            filled += float(np.mean(inner)) * np.pi * own**2 * max(len(line) * own / 3, own)
            kind.add(line, own)
        return Tubes(
            np.concatenate([np.empty((0, 3)), *(tube.points for tube in grown)]),
            np.concatenate([np.empty(0), *(tube.radius for tube in grown)]),
            np.concatenate([np.empty(0), *(tube.lumen for tube in grown)]),
        )

    def _line(self, radius: float, length: float, gap: float) -> Floats | None:
        """Grow a winding centre line that keeps ``gap`` from all others: points (N, 3) every third of the radius.

        It looks four radii ahead along a fan of arcs and follows the one with most room. That way it winds through free
        space and around itself.

        Returns:
            None if the line soon got stuck.
        """
        rng = self.rng
        step, tightest = radius / 3, 1 / (1.7 * radius)
        starts = rng.uniform(0, self.size, (50, 3))
        room = self.clearance(starts, radius)
        if room.max() < gap:
            return None
        line = [starts[int(np.argmax(room))] if np.isfinite(room).all() else starts[0]]
        heading = rng.normal(size=3)
        heading /= np.linalg.norm(heading)
        bend = np.zeros(3)
        ahead = radius * np.array([0.34, 1.0, 2.0, 3.0, 4.0])
        steps = max(1, int(length / step))
        while len(line) < steps:
            fan = np.concatenate(
                [0.9 * bend + rng.normal(0, 0.25, (12, 3)) * tightest, rng.normal(0, 0.7, (12, 3)) * tightest]
            )
            fan -= np.outer(fan @ heading, heading)
            curvature = np.linalg.norm(fan, axis=1, keepdims=True)
            fan *= np.minimum(1, tightest / curvature)
            curvature = np.minimum(curvature, tightest)[..., None]
            angle = curvature * ahead[None, :, None]
            # Points (fan, ahead, 3) along circular arcs.
            arcs = line[-1] + heading * np.sin(angle) / curvature + fan[:, None] / curvature**2 * (1 - np.cos(angle))
            free = self.clearance(arcs.reshape(-1, 3), radius).reshape(arcs.shape[:2])
            # The line is an obstacle to itself only where it can have turned back towards itself.
            behind = (len(line) - 1 - np.arange(len(line))) * step
            near = behind[None, :] + ahead[:, None] < 3.2 * radius
            itself = cdist(arcs.reshape(-1, 3), np.array(line)).reshape(*arcs.shape[:2], -1) - 2 * radius
            free = np.minimum(free, np.where(near, np.inf, itself).min(axis=2)) - gap
            outside = np.maximum(-arcs, arcs - self.size).max(axis=2) - 0.2 * radius
            blocked = np.maximum(np.maximum(-free, outside), 0) / radius
            cost = blocked @ np.array([8.0, 4.0, 2.0, 1.0, 1.0]) + rng.uniform(0, 0.2, len(fan))
            best = int(np.argmin(cost))
            if free[best, 0] < 0 or outside[best, 0] > radius:
                break
            bend = fan[best]
            line.append(arcs[best, 0])
            heading = heading + bend * step
            heading /= np.linalg.norm(heading)
        return np.array(line) if len(line) >= min(steps, 12) else None

    def _tube(self, line: Floats, radius: float, variation: float, lumen: float) -> Tubes:
        """Return a tube along a centre line, with denser points; radius and lumen vary along it."""
        dense = 4
        count = dense * len(line)
        if len(line) > 3:
            points = CubicSpline(np.arange(len(line)), line)(np.linspace(0, len(line) - 1, count))
        else:
            points = np.repeat(line, dense, axis=0)
        # Waves about two diameters long, 12 points of the line; a Gaussian shrinks white noise by (4π σ²)^(1/4).
        sigma = 6 * dense
        white = self.rng.normal(size=(2, count + 8 * sigma))
        waves = gaussian_filter1d(white, sigma, axis=1)[:, 4 * sigma : -4 * sigma] * (4 * np.pi * sigma**2) ** 0.25
        waves = np.clip(waves, -2, 2)
        return Tubes(points, radius * (1 + variation / 2 * waves[0]), lumen + 0.03 * waves[1])
