"""The volumes of the experiments with their truth, and the slices that count as annotated."""

import ast
import dataclasses
import functools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lib.core.annotation.slices import AnnotatedSlice, keep_slices
from lib.core.errors import InputError
from lib.core.files import replacing
from lib.core.labels import LabelScheme
from lib.core.training.cases import TrainingCase
from lib.core.volumes import working_grid
from lib.core.volumes.volume import Volume
from lib.core.volumes.working_grid import WorkingGrid
from lib.phantom import specimen as phantom
from lib.phantom import tubes
from lib.phantom.specimen import PAPER_SPECIMENS, Specimen, make_phantom
from lib.simulation.annotator import truth_as_annotation
from lib.simulation.cases import BACKGROUND, label_scheme, read_cases

from .printed import SLICES

PHANTOM_LABELS = ("inside", "tubule")

FEWEST_SLICES = 3
"""Least number of annotated slices of a volume."""

DENSEST = 3
"""At most every third slice along an axis counts as annotated, the density of the paper's first sample across z."""

Places = tuple[AnnotatedSlice, ...]


@dataclass(frozen=True)
class Source:
    """Where the volumes come from.

    Attributes:
        folder: folder with ``images/`` and dense ``labels/``; None: the phantom of the paper's sizes.
        labels: names of the folder's foreground classes, separated by commas; empty: class_1, …
        halved: whether the phantom's sides have half as many voxels.
        cache: folder that keeps the phantom.
    """

    folder: Path | None
    labels: str
    halved: bool
    cache: Path

    @property
    def name(self) -> str:
        return self.folder.resolve().name if self.folder else "phantom"


@dataclass(frozen=True, eq=False)
class Subject:
    """A volume with its truth.

    Attributes:
        volume: the image.
        truth: (X, Y, Z), values of an annotation: 1 … K foreground, K+1 background.
        slices: the slices that count as annotated.
    """

    volume: Volume
    truth: NDArray[np.uint8]
    slices: Places

    @functools.cached_property
    def checksum(self) -> int:
        """Checksum of the image, the truth and the voxel grid."""
        grid = zlib.crc32(self.volume.affine.tobytes(), zlib.crc32(repr(self.volume.shape).encode()))
        return zlib.crc32(self.truth.tobytes(), zlib.crc32(self.volume.array.tobytes(), grid))

    def annotated(self, name: str, slices: Places) -> TrainingCase:
        """Return the volume with these slices annotated and everything else unlabelled."""
        return TrainingCase(name, self.volume, keep_slices(self.truth, slices))


@dataclass(frozen=True, eq=False)
class Study:
    """All volumes by name, and their label scheme."""

    scheme: LabelScheme
    subjects: Mapping[str, Subject]


def evenly(length: int, count: int) -> list[int]:
    """Return ``count`` indices along an axis of ``length`` slices, as uniformly as possible (section 3.1)."""
    return [(2 * number + 1) * length // (2 * count) for number in range(count)]


def choose_annotated(shape: Sequence[int], number: int) -> Places:
    """Choose the slices of a volume that count as annotated, evenly spread (section 3.1).

    Args:
        shape: the volume in voxels.
        number: number of the volume, which selects one of the paper's triples of slice numbers in turn; at most every
            ``DENSEST``-th slice is chosen.
    """
    wanted = zip(shape, SLICES[number % len(SLICES)], strict=True)
    return tuple(
        AnnotatedSlice(axis, index)
        for axis, (length, count) in enumerate(wanted)
        for index in evenly(length, min(count, length // DENSEST))
    )


@functools.lru_cache(maxsize=1)
def load_study(source: Source) -> Study:
    """Read or make the volumes and choose the annotated slices; the same ones each time.

    Raises:
        InputError: fewer than two volumes have a truth; a truth has another grid than its volume, or classes without a
            name; volumes differ in their number of channels; or a volume has fewer than ``FEWEST_SLICES`` slices to
            annotate.
    """
    if source.folder:
        cases = read_cases(source.folder / "images", source.folder / "labels")
        scheme = label_scheme(source.labels, cases)
        volumes = {name: (case.volume, truth_as_annotation(case.truth, scheme)) for name, case in cases.items()}
    else:
        scheme = LabelScheme(PHANTOM_LABELS, BACKGROUND)
        volumes = {
            f"kidney_{number}": _specimen(specimen, source, scheme, number)
            for number, specimen in enumerate(PAPER_SPECIMENS, start=1)
        }
    subjects = {}
    for number, (name, (volume, truth)) in enumerate(volumes.items()):
        slices = choose_annotated(volume.shape, number)
        if len(slices) < FEWEST_SLICES:
            raise InputError(
                f"{volume.name}: {' × '.join(map(str, volume.shape))} voxels leave {len(slices)} slices to annotate; "
                f"expected at least {FEWEST_SLICES}, one in {DENSEST} along each axis: leave the volume out"
            )
        subjects[name] = Subject(volume, truth, slices)
    _check_channels(subjects)
    return Study(scheme, subjects)


def _check_channels(subjects: Mapping[str, Subject]) -> None:
    (first, reference), *others = subjects.items()
    for name, subject in others:
        if subject.volume.channels != reference.volume.channels:
            raise InputError(
                f"{name}: {subject.volume.channels} channel(s), but {first} has {reference.volume.channels}; "
                "put volumes recorded in different ways into different folders"
            )


def checksum_of_code(*modules: ModuleType) -> int:
    """Return a checksum of the modules' code, so that results of older code are recognised.

    It ignores comments, docstrings and the layout of the source.
    """
    trees = [ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8")) for module in modules]
    for node in (node for tree in trees for node in ast.walk(tree)):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [each for each in body if not _is_text(each)]  # type: ignore[attr-defined]
    return zlib.crc32("".join(map(ast.unparse, trees)).encode())


def _is_text(statement: ast.stmt) -> bool:
    """Tell whether a statement is a docstring, of a module, class, function or variable."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


class _Made(NamedTuple):
    """A phantom: image (C, X, Y, Z), truth (X, Y, Z) in an annotation's values, and voxel size."""

    image: NDArray[Any]
    truth: NDArray[np.uint8]
    spacing: tuple[float, ...]


def _specimen(specimen: Specimen, source: Source, scheme: LabelScheme, number: int) -> tuple[Volume, NDArray[np.uint8]]:
    """Return a specimen's image and truth, made once and kept with a description of how they were made."""
    code = checksum_of_code(phantom, tubes, working_grid)
    description = f"{dataclasses.asdict(specimen)} halved: {source.halved}, code: {code}"
    path = source.cache / f"kidney_{number}.npz"
    if not _is_made(path, description):
        image, truth = make_phantom(specimen)
        made = _Made(image, truth_as_annotation(truth, scheme), specimen.spacing)
        if source.halved:
            made = _halved(made)
        with replacing(path) as beside:
            np.savez_compressed(beside, **made._asdict(), description=description)
    with np.load(path) as kept:
        x, y, z = kept["spacing"]
        # Like the sample volumes: x points left, y posterior.
        return Volume(kept["image"], np.diag([-x, -y, z, 1.0]), name=path.name), kept["truth"]


def _is_made(path: Path, description: str) -> bool:
    if not path.is_file():
        return False
    with np.load(path) as kept:
        return str(kept["description"]) == description


def _halved(made: _Made) -> _Made:
    """Sample a phantom down by two along each axis, as the paper did with its own volumes."""
    grid = WorkingGrid.of(made.truth.shape, made.spacing, [2 * size for size in made.spacing])
    # oneDNN rounds differently with each number of threads, which would change the volume's checksum.
    with torch.backends.mkldnn.flags(enabled=False):
        image = grid.image(made.image.astype(np.float32))
    return _Made(image, grid.annotation(made.truth), grid.voxel_size(made.spacing))
