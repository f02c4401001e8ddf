"""The data sets of ``time_to_iou``: volumes with dense label maps, in folders ``images`` and ``labels``."""

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from lib.core.errors import InputError
from lib.phantom.specimen import SAMPLE_SPECIMENS, write_samples

from . import PROJECT

CLASSES = {
    "phantom": ("inside", "tubule"),
    "noisy_phantom": ("inside", "tubule"),
    "organoid": ("lumen", "epithelium"),
    "hippocampus": ("anterior", "posterior"),
    "mni152": ("grey_matter", "white_matter"),
}
"""Foreground classes by data set."""

REAL_DATA = PROJECT.parent / "shared" / "data"

FEWER_PHOTONS = 10
"""A noisy phantom was recorded with so many times fewer photons."""

PARTS = 3
"""The template of the brain is cut into so many volumes, across the axis from back to front."""

RESOLUTION = 2
"""Voxel size of the template of the brain in mm."""


def is_there(data: str) -> bool:
    """Whether a data set can be had here."""
    if data == "mni152":
        return find_spec("nilearn") is not None
    return data in _MADE or (REAL_DATA / data / "images").is_dir()


@contextlib.contextmanager
def folder_of(data: str) -> Iterator[Path]:
    """Yield a data set's folder, which may be temporary.

    Raises:
        InputError: the data aren't there, or the package that they come with isn't installed.
    """
    if make := _MADE.get(data):
        with tempfile.TemporaryDirectory() as path:
            folder = Path(path)
            for part in ("images", "labels"):
                (folder / part).mkdir()
            make(folder)
            yield folder
        return
    folder = REAL_DATA / data
    if not (folder / "images").is_dir():
        raise InputError(f"there is no {folder / 'images'}")
    yield folder


def _phantom(folder: Path) -> None:
    write_samples(folder / "images", folder / "labels")


def _noisy_phantom(folder: Path) -> None:
    noisy = [replace(specimen, photons=specimen.photons / FEWER_PHOTONS) for specimen in SAMPLE_SPECIMENS]
    write_samples(folder / "images", folder / "labels", noisy)


def _mni152(folder: Path) -> None:
    """Cut the MNI152 template, which nilearn contains, into volumes. A tissue is where its map is above 1/2."""
    try:
        from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template
    except ImportError as error:
        raise InputError("nilearn isn't installed; it comes with benchmarks/requirements.txt") from error
    template = load_mni152_template(resolution=RESOLUTION)
    image = np.asarray(template.dataobj, np.float32)
    grey, white = (
        np.asarray(load(resolution=RESOLUTION).dataobj) for load in (load_mni152_gm_template, load_mni152_wm_template)
    )
    tissues = np.select([white > 0.5, grey > 0.5], [2, 1], 0).astype(np.uint8)
    bounds = np.linspace(0, image.shape[1], PARTS + 1).astype(int)
    for number, (start, stop) in enumerate(itertools.pairwise(bounds), start=1):
        part = slice(start, stop)
        _write(folder / "images" / f"brain_{number}.nii.gz", image[:, part], template.affine)
        _write(folder / "labels" / f"brain_{number}.nii.gz", tissues[:, part], template.affine)


def _write(path: Path, array: NDArray[Any], affine: NDArray[Any]) -> None:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


_MADE: dict[str, Callable[[Path], None]] = {
    "phantom": _phantom,
    "noisy_phantom": _noisy_phantom,
    "mni152": _mni152,
}
