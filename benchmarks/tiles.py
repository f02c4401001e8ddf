"""One augmented training tile with its annotation, on one core: rotation, scaling, elastic deformation, grey values.

Each peer gets the strengths of our plan, and is used in the fastest way that its documentation shows for tiles of a
volume. The volume is mirrored at its borders in advance, which isn't timed. A box around a labelled voxel is cut out
first, and only this box is deformed. If a peer offers several ways, all are timed and the fastest counts.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import ours
from .data import PAPER_TILE, SAMPLE_SHAPE, smooth_volume, sparse_annotation
from .results import Entry
from .timing import Announce, BenchmarkOptions, Side, compare
from .timing import measure as measure_sides

KEYS = ("tiles.monai", "tiles.torchio", "tiles.elasticdeform")
BAR = 10.0
REPEATS = 9

CONTEXT = 44
"""Voxels that a tile needs around its output; it may reach this far beyond the volume."""

MARGIN = 24
"""Voxels around a tile that rotation and scaling may bring into it; what comes from further out is padding."""

ELASTIC_MARGIN = 8
"""The same for elastic deformation alone: two standard deviations."""

KEPT = 0.82
"""Mean standard deviation of the displacement over all voxels, relative to that at our control points. Splines through
the points keep 0.874 of the variance along each axis."""

WAYS = {
    "tiles.monai": ("monai", "monai_one_resampling"),
    "tiles.torchio": ("torchio", "torchio_one_resampling"),
    "tiles.elasticdeform": ("elasticdeform",),
}


@dataclass(frozen=True)
class Job:
    """The volume to draw tiles from, and the strengths of augmentation.

    Attributes:
        image: (C, X, Y, Z) float32 in 0 … 1.
        annotation: (X, Y, Z) uint8, 0 … 3.
        tile: input sizes.
        rotation: largest angle about each axis in degrees.
        scaling: largest change of size, as a fraction.
        elastic_sd: standard deviation of the displacement along each axis in voxels.
        grey_values: whether grey values change as well.
    """

    image: NDArray[np.float32] = field(default_factory=smooth_volume)
    annotation: NDArray[np.uint8] | None = None
    tile: tuple[int, ...] = PAPER_TILE
    rotation: float = ours.ROTATION
    scaling: float = ours.SCALING
    elastic_sd: float = ours.ELASTIC_SD
    grey_values: bool = True

    @property
    def labels(self) -> NDArray[np.uint8]:
        """The annotation; a synthetic sparse one if none is given."""
        return sparse_annotation(self.image) if self.annotation is None else self.annotation


Draw = Callable[[], tuple[Any, Any]]
"""Draws a tile: image (C, *tile) and annotation (*tile); our side returns the targets of the tile's output instead."""


def draw_ours(job: Job, device: str = "cpu") -> Draw:
    """Prepare our side."""
    return ours.tile_sampler(
        job.image, job.labels, job.tile, job.rotation, job.scaling, job.elastic_sd, job.grey_values, device
    )


def draw_monai(job: Job, one_resampling: bool, device: str = "cpu") -> Draw:
    """Prepare MONAI: crop, ``Rand3DElasticd``, ``RandAffined``; or ``Rand3DElasticd`` with the affine part as well."""
    from monai import transforms

    box = [size + 2 * MARGIN for size in job.tile]
    pad = [(CONTEXT + MARGIN,) * 2] * 3
    data = transforms.ClassesToIndicesd("annotation", num_classes=4)(
        {
            "image": torch.from_numpy(np.pad(job.image, [(0, 0), *pad], mode="reflect")).to(device),
            "annotation": torch.from_numpy(np.pad(job.labels, pad)[None].astype(np.float32)).to(device),
        }
    )
    # A Gaussian of this width makes the field as steep, for its strength, as splines through our control points.
    sigma = 0.42 * ours.ELASTIC_SPACING
    # Uniform noise in ±1, smoothed by this Gaussian, has the standard deviation 3^-1/2 (2 √π sigma)^-3/2.
    magnitude = KEPT * job.elastic_sd * math.sqrt(3) * (2 * math.sqrt(math.pi) * sigma) ** 1.5
    keys, modes = ("image", "annotation"), ("bilinear", "nearest")
    affine: dict[str, Any] = {
        "rotate_range": [math.radians(job.rotation)] * 3,
        "scale_range": [job.scaling] * 3,
    }
    elastic: dict[str, Any] = {
        "sigma_range": (sigma, sigma),
        "magnitude_range": (magnitude, magnitude),
        "spatial_size": job.tile,
    }
    chain: list[Any] = [
        transforms.RandCropByLabelClassesd(
            keys, "annotation", box, ratios=[0, 1, 1, 1], num_classes=4, indices_key="annotation_cls_indices"
        )
    ]
    if one_resampling:
        chain.append(transforms.Rand3DElasticd(keys, prob=1.0, mode=modes, **elastic, **affine))
    else:
        between = [size + 2 * ELASTIC_MARGIN for size in job.tile]
        chain.append(transforms.RandAffined(keys, prob=1.0, mode=modes, spatial_size=between, **affine))
        chain.append(transforms.Rand3DElasticd(keys, prob=1.0, mode=modes, **elastic))
    if job.grey_values:
        gamma = math.exp(ours.GREY_SLOPE_SD)
        chain.append(transforms.RandAdjustContrastd("image", prob=1.0, gamma=(1 / gamma, gamma)))
    compose = transforms.Compose(chain)
    compose.set_random_state(0)

    def draw() -> tuple[Any, Any]:
        (result,) = compose(data)
        return result["image"], result["annotation"][0]

    return draw


def draw_torchio(job: Job, one_resampling: bool) -> Draw:
    """Prepare TorchIO: crop, ``RandomAffine``, ``RandomElasticDeformation``; or both of these in one resampling."""
    import torchio

    # TorchIO warns of strengths that can fold space, but its check doesn't consider all that folding depends on.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="torchio")
    places, generator = _Places(job, MARGIN + CONTEXT), np.random.default_rng(0)
    torch.manual_seed(0)
    # Displacements of control points are uniform in ± this. The B-splines don't pass through the control points and
    # keep only a part of their standard deviation.
    kept = (151 / 315) ** 1.5
    affine = {"scales": (1 / (1 + job.scaling), 1 + job.scaling), "degrees": job.rotation, "isotropic": True}
    elastic = {"max_displacement": KEPT * job.elastic_sd * math.sqrt(3) / kept, "locked_borders": 0}
    if one_resampling:
        points = _torchio_points([size + 2 * MARGIN for size in job.tile])
        chain = [
            torchio.RandomAffineElasticDeformation(
                affine_kwargs=affine, elastic_kwargs={**elastic, "num_control_points": points}
            ),
            torchio.Crop(MARGIN),
        ]
    else:
        points = _torchio_points([size + 2 * ELASTIC_MARGIN for size in job.tile])
        chain = [
            torchio.RandomAffine(**affine),
            torchio.Crop(MARGIN - ELASTIC_MARGIN),
            torchio.RandomElasticDeformation(num_control_points=points, **elastic),
            torchio.Crop(ELASTIC_MARGIN),
        ]
    if job.grey_values:
        chain.append(torchio.RandomGamma(log_gamma=ours.GREY_SLOPE_SD))
    compose = torchio.Compose(chain)

    def draw() -> tuple[Any, Any]:
        x, y, z = (slice(start - MARGIN, start + size + MARGIN) for start, size in places.draw(generator))
        subject = torchio.Subject(
            image=torchio.ScalarImage(tensor=torch.from_numpy(places.image[:, x, y, z])),
            annotation=torchio.LabelMap(tensor=torch.from_numpy(places.annotation[None, x, y, z])),
        )
        result = compose(subject)
        return result["image"].data, result["annotation"].data[0]

    return draw


def _torchio_points(sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the number of control points along each axis with which TorchIO's are as far apart as ours."""
    return tuple(max(4, round(size / ours.ELASTIC_SPACING) + 3) for size in sizes)


def draw_elasticdeform(job: Job) -> Draw:
    """Prepare elasticdeform: ``deform_grid`` resamples the tile only, and once; grey values change by our functions."""
    import elasticdeform

    from lib.core.augmentation.grey_values import GreyValueSettings, apply_grey_mapping, draw_grey_mapping

    places, generator = _Places(job, CONTEXT), np.random.default_rng(0)
    # Its control points span the whole volume.
    points = [math.ceil((size - 1) / ours.ELASTIC_SPACING) + 1 for size in places.annotation.shape]

    def draw() -> tuple[Any, Any]:
        place = places.draw(generator)
        # The transform leads from source to tile, in coordinates of the whole volume; the tile's middle stays in place.
        angles = np.radians(generator.uniform(-job.rotation, job.rotation, size=3))
        matrix = _rotation(angles) * math.exp(generator.uniform(-1, 1) * math.log1p(job.scaling))
        middle = np.array([start + size // 2 for start, size in place], dtype=float)
        image, annotation = elasticdeform.deform_grid(
            [places.image, places.annotation],
            job.elastic_sd * generator.standard_normal((3, *points)),
            order=[1, 0],
            mode=["mirror", "constant"],
            crop=[slice(start, start + size) for start, size in place],
            axis=[(1, 2, 3), (0, 1, 2)],
            affine=np.column_stack([matrix, middle - matrix @ middle]),
        )
        tensor = torch.from_numpy(image)
        if job.grey_values:
            tensor = apply_grey_mapping(tensor, draw_grey_mapping(generator, len(tensor), GreyValueSettings()))
        return tensor, annotation

    return draw


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = (other for other in range(3) if other != axis)
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = math.cos(angle)
        turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
        matrix = turn @ matrix
    return matrix


class _Places:
    """A volume mirrored at its borders, from which tiles around labelled voxels are cut out, as ours are.

    Args:
        job: what to draw from.
        border: voxels added on each side.
    """

    def __init__(self, job: Job, border: int) -> None:
        pad = [(border, border)] * 3
        self.image = np.pad(job.image, [(0, 0), *pad], mode="reflect")
        self.annotation = np.pad(job.labels, pad)
        self._tile, self._border = job.tile, border
        self._voxels = [np.argwhere(job.labels == value) for value in (1, 2, 3)]
        self._shape = job.image.shape[1:]

    def draw(self, generator: np.random.Generator) -> list[tuple[int, int]]:
        """Return start, in the mirrored volume, and size of a tile along each axis."""
        voxels = self._voxels[generator.integers(len(self._voxels))]
        place = []
        for position, length, size in zip(
            voxels[generator.integers(len(voxels))], self._shape, self._tile, strict=True
        ):
            # The tile's output stays inside the volume.
            half = size // 2 - CONTEXT
            middle = int(np.clip(position, half, max(half, length - half)))
            place.append((middle - size // 2 + self._border, size))
        return place


DRAWS: dict[str, Callable[..., Draw]] = {
    "ours": draw_ours,
    "monai": lambda job, **device: draw_monai(job, False, **device),
    "monai_one_resampling": lambda job, **device: draw_monai(job, True, **device),
    "torchio": lambda job: draw_torchio(job, False),
    "torchio_one_resampling": lambda job: draw_torchio(job, True),
    "elasticdeform": draw_elasticdeform,
}
ON_GPU = ("ours", "monai", "monai_one_resampling")
"""Ways that can draw tiles on a GPU; the others stay on the processor."""


def prepare(way: str, **options: Any) -> Callable[[Callable[[float], None]], None]:
    """Prepare a side for ``benchmarks.side``: one run draws one tile."""
    draw = DRAWS[way](Job(), **options)

    def run(_progress: Callable[[float], None]) -> None:
        draw()

    return run


def measure(keys: Sequence[str], chosen: BenchmarkOptions, announce: Announce) -> Iterator[tuple[str, Entry]]:
    """Yield key and entry of each comparison."""
    names = ["ours", *(name for key in keys for name in WAYS[key])]
    sides = {}
    for name in names:
        device = {"device": chosen.device} if name in ON_GPU else {}
        sides[name] = Side("benchmarks.tiles:prepare", {"way": name, **device}, threads=1)
    runs = measure_sides(sides, chosen.repeats or REPEATS, warm_up=True, announce=announce)
    tile, volume = ("×".join(map(str, sizes)) for sizes in (PAPER_TILE, SAMPLE_SHAPE))
    for key in keys:
        theirs = {name: runs[name] for name in WAYS[key]}
        note = f"one augmented training tile of {tile} from a volume of {volume} with 3 channels; one core"
        yield key, compare(runs["ours"], theirs, BAR, chosen.command(key), note)
