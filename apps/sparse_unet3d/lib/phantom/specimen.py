"""Kidney-like phantom volumes with known truth, after section 3.1 of the paper.

A specimen is embryonic tissue with a few convoluted tubules. A simulated confocal microscope records three channels:

1. the tubule stain (Tomato-Lectin): tubule walls, but also solid blood vessels and blobs of the same brightness;
2. nuclei (DAPI) everywhere except in hollow places;
3. cell membranes (Beta-Catenin) everywhere except in hollow places.

Hollow places are the tubules' lumina, and cavities without a stained wall. The brightness of a voxel therefore doesn't
tell its class; its surroundings do. All arrays have the axes (X, Y, Z); lengths are in µm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.spatial import cKDTree

from lib.core.files import replacing

from .tubes import Floats, Space, Tubes

__all__ = ["PAPER_SPECIMENS", "SAMPLE_SPECIMENS", "Specimen", "make_phantom", "write_samples"]

INSIDE = 1
TUBULE = 2

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Specimen:
    """All parameters of a specimen and its recording.

    Args:
        shape: number of voxels in x, y, z.
        seed: seed of all randomness; equal specimens give equal phantoms.
        spacing: voxel size in µm.
        calibre: mean outer radius of the tubules in µm; it varies by about 10 % along each tubule.
        lumen: mean radius of the lumen as a fraction of the outer radius.
        tubules: fraction of the volume that tubules fill, including their lumina.
        vessels: fraction of the volume that solid structures with the tubule stain fill.
        cavities: fraction of the volume that hollow places without a stained wall fill.
        staining: brightness of the stained structures in each channel; 1 for a good stain.
        haze: brightness of unstained tissue in the tubule stain's channel.
        brightness: the detector's gain; at 1, full brightness uses 60 % of the detector's range above darkness.
        photons: photons counted at full brightness at the top of the volume; fewer make more shot noise.
        read_noise: standard deviation of the detector's noise, in photons.
        attenuation: depth in µm over which the light falls to 1/e.
        blur: standard deviation of the point-spread function in µm along x, y and z.
        seams: standard deviation of the gains of the four tiles; that of their offsets is a fifth of it.
    """

    shape: tuple[int, int, int]
    seed: int
    spacing: tuple[float, float, float] = (1.76, 1.76, 2.04)
    calibre: float = 14.5
    lumen: float = 0.48
    tubules: float = 0.15
    vessels: float = 0.11
    cavities: float = 0.05
    staining: tuple[float, float, float] = (1.0, 1.0, 1.0)
    haze: float = 0.2
    brightness: float = 1.0
    photons: float = 100.0
    read_noise: float = 1.5
    attenuation: float = 180.0
    blur: tuple[float, float, float] = (1.5, 1.5, 3.0)
    seams: float = 0.08


SAMPLE_SPECIMENS = (
    Specimen((128, 128, 64), seed=1),
    Specimen(
        (128, 128, 64),
        seed=2,
        calibre=16.5,
        lumen=0.5,
        staining=(0.85, 1.2, 0.9),
        haze=0.24,
        brightness=0.75,
        photons=70.0,
        seams=0.1,
    ),
    Specimen(
        (128, 128, 64),
        seed=3,
        calibre=14.0,
        lumen=0.5,
        staining=(1.1, 0.8, 1.15),
        haze=0.16,
        brightness=1.1,
        photons=140.0,
        seams=0.06,
    ),
)
"""The three volumes of the sample datastore."""

PAPER_SPECIMENS = (
    Specimen((248, 244, 64), seed=1, calibre=18.0),
    Specimen(
        (245, 244, 56),
        seed=2,
        calibre=20.5,
        lumen=0.5,
        staining=(0.8, 1.25, 0.85),
        haze=0.26,
        brightness=0.6,
        photons=60.0,
        seams=0.1,
    ),
    Specimen(
        (246, 244, 59),
        seed=3,
        calibre=16.0,
        lumen=0.5,
        staining=(1.15, 0.75, 1.2),
        haze=0.15,
        brightness=1.1,
        photons=150.0,
        seams=0.06,
    ),
)
"""Three volumes of the paper's sizes; their tubules are large enough for halved volumes."""


def make_phantom(specimen: Specimen) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Grow a specimen and record it.

    Returns:
        The image (3, X, Y, Z), 12 bits in uint16 as from the paper's microscope; and the truth (X, Y, Z): 0 background,
        1 inside the tubule, 2 tubule (its wall). Equal specimens give equal arrays.
    """
    anatomy, noise = np.random.default_rng(specimen.seed).spawn(2)
    tissue = _Tissue.grow(specimen, anatomy)
    return _record(specimen, _stain(specimen, tissue, anatomy), noise), tissue.truth


def write_samples(
    images_folder: str | Path, truth_folder: str | Path, specimens: Sequence[Specimen] = SAMPLE_SPECIMENS
) -> list[Path]:
    """Write ``kidney_1.nii.gz``, … to ``images_folder`` and true label maps of the same names to ``truth_folder``.

    Images are NIfTI files of shape (X, Y, Z, 1, 3) with vector intent, the only multi-channel form of NIfTI that 3D
    Slicer shows with the right geometry. Slicer works in mm and is awkward with objects a thousand times smaller than
    patients. As is usual in microscopy, 1 µm is therefore written as 1 mm: read 1.76 µm where Slicer says 1.76 mm. The
    axes x, y, z point left, posterior, superior, so Slicer shows x to the right and y down, as microscopists do.

    Returns:
        The paths of the images.
    """
    images = []
    for number, specimen in enumerate(specimens, 1):
        image, truth = make_phantom(specimen)
        name = f"kidney_{number}.nii.gz"
        # (C, X, Y, Z) to (X, Y, Z, 1, C)
        vectors = np.moveaxis(image, 0, -1)[:, :, :, np.newaxis]
        images.append(Path(images_folder) / name)
        _write_nifti(images[-1], vectors, specimen.spacing, intent="vector")
        _write_nifti(Path(truth_folder) / name, truth, specimen.spacing, intent="none")
    return images


def _write_nifti(path: Path, array: NDArray[Any], spacing: tuple[float, float, float], intent: str) -> None:
    nifti = nibabel.Nifti1Image(array, np.diag([-spacing[0], -spacing[1], spacing[2], 1.0]))
    nifti.header.set_intent(intent)
    nifti.header.set_xyzt_units("mm")
    nifti.set_qform(nifti.affine, code=1)
    nifti.set_sform(nifti.affine, code=1)
    with replacing(path) as beside:
        nibabel.save(nifti, beside)


@dataclass(frozen=True, eq=False)
class _Tissue:
    """The specimen before it is stained, as maps (X, Y, Z).

    Attributes:
        truth: 0 background, 1 lumen, 2 wall.
        vessel: solid structures that take the tubule stain.
        hollow: lumina and cavities.
        membrane: boundaries between cells, and of hollow places.
        nucleus: brightness of nuclei, 0 outside.
    """

    truth: NDArray[np.uint8]
    vessel: Mask
    hollow: Mask
    membrane: Mask
    nucleus: Field

    @classmethod
    def grow(cls, specimen: Specimen, rng: np.random.Generator) -> "_Tissue":
        spacing = np.array(specimen.spacing)
        space = Space(np.array(specimen.shape) * spacing, rng)
        whole = float(np.prod(space.size))
        calibre = specimen.calibre
        gap = 0.3 * calibre
        tubules = space.fill(specimen.tubules * whole, calibre, 60 * calibre, gap, 0.2, specimen.lumen)
        vessels = space.fill(specimen.vessels * 0.85 * whole, 0.5 * calibre, 12 * calibre, 0.2 * calibre, 0.6, 0.0)
        cavities = space.fill(specimen.cavities * whole, 0.5 * calibre, 8 * calibre, 0.2 * calibre, 0.8, 0.0)
        blobs = space.fill(specimen.vessels * 0.15 * whole, 0.5 * calibre, 0.1, 0.2 * calibre, 0.6, 0.0)

        unevenness = 0.06 * calibre * _waves(specimen.shape, 5.0 / spacing, rng)
        wall_distance, lumen = _distance(specimen, tubules, unevenness)
        truth = np.zeros(specimen.shape, np.uint8)
        truth[wall_distance < 1] = TUBULE
        truth[wall_distance < lumen] = INSIDE
        vessel = _distance(specimen, vessels, unevenness)[0] < 1
        vessel |= _distance(specimen, blobs, unevenness)[0] < 1
        vessel &= truth == 0
        hollow = (_distance(specimen, cavities, unevenness)[0] < 1) & (truth == 0) & ~vessel
        hollow |= truth == INSIDE
        middle = np.abs(wall_distance - (1 + lumen) / 2) < 0.06
        membrane, nucleus = _cells(specimen, truth, hollow, vessel, middle, rng)
        return cls(truth, vessel, hollow, membrane, nucleus)


def _waves(shape: tuple[int, int, int], sigma: Floats, rng: np.random.Generator) -> Field:
    """Return a smooth random field with mean 0 and standard deviation 1; ``sigma`` in voxels along each axis."""
    field: Field = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma, mode="wrap", truncate=3)
    field /= field.std()
    return field


def _distance(specimen: Specimen, tubes: Tubes, unevenness: Field) -> tuple[Field, Field]:
    """Return each voxel's distance from the nearest centre line, and the lumen there, as fractions of the outer radius.

    Both are (X, Y, Z); far from all tubes the distance is infinite and the lumen 0.
    """
    relative = np.full(specimen.shape, np.inf, np.float32)
    lumen = np.zeros(specimen.shape, np.float32)
    if not len(tubes.points):
        return relative, lumen
    spacing = np.array(specimen.spacing)
    reach = float(tubes.radius.max()) * 1.25
    # A point outside the box counts by its projection onto the box, which is nearer to every voxel.
    voxels = np.clip((tubes.points / spacing).astype(int), 0, np.array(specimen.shape) - 1)
    empty = np.ones(specimen.shape, bool)
    empty[tuple(voxels.T)] = False
    near = np.argwhere(distance_transform_edt(empty, sampling=spacing) < reach + spacing.max())
    distance, index = cKDTree(tubes.points, balanced_tree=False, compact_nodes=False).query(
        (near + 0.5) * spacing, distance_upper_bound=reach
    )
    hit = np.isfinite(distance)
    near, distance, index = near[hit], distance[hit], index[hit]
    place = tuple(near.T)
    relative[place] = (distance + unevenness[place]) / tubes.radius[index]
    lumen[place] = tubes.lumen[index]
    return relative, lumen


def _cells(
    specimen: Specimen,
    truth: NDArray[np.uint8],
    hollow: Mask,
    vessel: Mask,
    middle: Mask,
    rng: np.random.Generator,
) -> tuple[Mask, Field]:
    """Fill the specimen with cells, except in hollow places; a cell is the region nearest to its nucleus.

    Returns:
        The membranes and the brightness of the nuclei, both (X, Y, Z).
    """
    spacing = np.array(specimen.spacing)

    def scattered(pitch: float, where: Mask) -> NDArray[np.intp]:
        """Choose voxels (N, 3) of ``where``, about one in each cube of ``pitch`` µm."""
        voxels = rng.permutation(np.argwhere(where))
        cubes = (voxels * spacing // pitch).astype(int)
        _, first = np.unique(np.ravel_multi_index(tuple(cubes.T), tuple(cubes.max(axis=0) + 1)), return_index=True)
        chosen: NDArray[np.intp] = voxels[np.sort(first)]
        return chosen

    # A wall is one layer of cells with the nuclei in its middle.
    nuclei = np.concatenate([scattered(10.0, middle), scattered(15.0, (truth == 0) & ~hollow)])
    radius = rng.uniform(2.4, 4.0, len(nuclei)).astype(np.float32)
    light = rng.uniform(0.6, 1.2, len(nuclei)).astype(np.float32)
    cell = np.zeros(specimen.shape, np.int32)
    cell[tuple(nuclei.T)] = np.arange(1, len(nuclei) + 1)
    distance, nearest = distance_transform_edt(cell == 0, sampling=spacing, return_indices=True)
    cell = cell[tuple(nearest)] - 1
    nucleus = np.where((distance < radius[cell]) & ~hollow, light[cell], np.float32(0))
    # Cells end at the walls of tubules, vessels and hollow places.
    part = cell * 4 + np.where(hollow, 0, np.where(truth == TUBULE, 1, np.where(vessel, 2, 3)))
    part[hollow] = -1
    membrane = np.zeros(specimen.shape, bool)
    for axis in range(3):
        before = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        after = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        membrane[before] |= part[before] != part[after]
    return membrane & ~hollow, nucleus


def _stain(specimen: Specimen, tissue: _Tissue, rng: np.random.Generator) -> Field:
    """Return the brightness (3, X, Y, Z) of the stained specimen, about 0 to 1, before the microscope's effects."""
    spacing = np.array(specimen.spacing)
    fine = _waves(specimen.shape, 2.5 / spacing, rng)
    coarse = _waves(specimen.shape, 18.0 / spacing, rng)
    solid = ~tissue.hollow
    tubule_stain, nuclear_stain, membrane_stain = specimen.staining
    taken = (
        np.clip(0.62 + 0.16 * coarse + 0.12 * fine, 0.15, None) + 0.3 * tissue.membrane - 0.25 * (tissue.nucleus > 0)
    )
    stained = (tissue.truth == TUBULE) | tissue.vessel
    channels = np.empty((3, *specimen.shape), np.float32)
    channels[0] = solid * specimen.haze * np.clip(1 + 0.4 * fine + 0.3 * coarse, 0.2, None)
    channels[0][stained] = tubule_stain * taken[stained]
    channels[1] = nuclear_stain * tissue.nucleus + solid * 0.08 * (1 + 0.3 * fine)
    channels[2] = membrane_stain * tissue.membrane * np.clip(0.9 + 0.2 * coarse, 0.3, None) + solid * 0.1 * (
        1 + 0.3 * fine
    )
    channels[:, tissue.hollow] = 0.03
    return np.clip(channels, 0, None)


def _record(specimen: Specimen, brightness: Field, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Record the specimen: blur, attenuation with depth, four tiles, photons, and the detector's 12 bits."""
    spacing = np.array(specimen.spacing)
    depth = (np.arange(specimen.shape[2]) * spacing[2] / specimen.attenuation).astype(np.float32)
    cuts = [int(n * rng.uniform(0.44, 0.56)) for n in specimen.shape[:2]]
    tiles = [(x, y) for x in (slice(cuts[0]), slice(cuts[0], None)) for y in (slice(cuts[1]), slice(cuts[1], None))]
    image = np.empty(brightness.shape, np.uint16)
    for channel, ideal in enumerate(brightness):
        light = gaussian_filter(ideal, np.array(specimen.blur) / spacing, truncate=3) * np.exp(-depth)
        for tile in tiles:
            gain, offset = rng.normal(1, specimen.seams), rng.normal(0.04, 0.2 * specimen.seams)
            light[tile] = light[tile] * gain + offset
        photons = rng.poisson(np.clip(light, 0, None) * specimen.photons).astype(np.float64)
        photons += rng.normal(0, specimen.read_noise, photons.shape)
        image[channel] = np.clip(np.round(100 + photons * (2400 * specimen.brightness / specimen.photons)), 0, 4095)
    return image
