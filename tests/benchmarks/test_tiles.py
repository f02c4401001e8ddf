import dataclasses

import numpy as np
import pytest
import torch

from benchmarks.data import smooth_volume, sparse_annotation
from benchmarks.tiles import DRAWS, Job

TILE = (108, 108, 108)
DRAWS_MADE = 6
SHAPE = (120, 110, 96)
OUTPUT = (slice(44, -44),) * 3
NEEDS = {"torchio": "torchio", "torchio_one_resampling": "torchio", "elasticdeform": "elasticdeform"}


@pytest.fixture(params=list(DRAWS))
def way(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    return name


def ramps() -> Job:
    """A volume whose channels are its voxels' positions, so that a tile says where each voxel was taken from."""
    positions = np.stack(np.meshgrid(*(np.arange(size, dtype=np.float32) for size in SHAPE), indexing="ij"))
    # Labelled only in the middle, so that all drawn tiles show the same place, with no mirrored voxel in their output.
    annotation = np.zeros(SHAPE, dtype=np.uint8)
    annotation[60, 55, 48], annotation[60, 55, 49], annotation[60, 56, 48] = 1, 2, 3
    return Job(positions, annotation, TILE, grey_values=False)


def sources(job: Job, way: str, draws: int) -> torch.Tensor:
    """Return (draws, 3, *output): the positions from which the voxels of the tiles' outputs were taken."""
    draw = DRAWS[way](job)
    # Ours maps grey values by a table even if it changes nothing, which reaches from 0 to 1 only.
    scale = max(SHAPE) if way == "ours" else 1
    if way == "ours":
        draw = DRAWS[way](dataclasses.replace(job, image=job.image / scale))
    return torch.stack([torch.as_tensor(np.asarray(draw()[0]))[(slice(None), *OUTPUT)] * scale for _ in range(draws)])


def test_tiles_have_the_size_asked_for_and_labelled_voxels(way: str) -> None:
    image = smooth_volume(SHAPE)
    picture, annotation = DRAWS[way](Job(image, sparse_annotation(image), TILE))()
    assert tuple(picture.shape) == (3, *TILE)
    labels = np.asarray(annotation)
    labels = labels + 1 if way == "ours" else labels[OUTPUT]
    assert labels.shape == tuple(size - 88 for size in TILE)
    assert 0.02 < np.mean(labels > 0) < 0.5


def test_rotation_and_scaling_are_as_strong_as_ours(way: str) -> None:
    """The spread over draws of each row of the matrix that takes a tile's voxels to their sources."""
    job = dataclasses.replace(ramps(), elastic_sd=0.0)
    steps = []
    for source in sources(job, way, DRAWS_MADE):
        steps.append([[float(source[a].diff(dim=b).mean()) for b in range(3)] for a in range(3)])
    matrices = np.array(steps)
    diagonal = matrices[:, range(3), range(3)]
    turned = matrices[:, [0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]]
    assert np.mean(diagonal) == pytest.approx(1.0, abs=0.1)
    assert 0.03 < np.std(diagonal) < 0.15
    # Angles uniform in ±15° have a standard deviation of 0.15.
    assert np.sqrt(np.mean(turned**2)) == pytest.approx(0.15, abs=0.05)


def test_elastic_deformation_is_as_strong_as_ours(way: str) -> None:
    """Compare the standard deviation of the displacement, and its steepness."""
    job = dataclasses.replace(ramps(), rotation=0.0, scaling=0.0)
    taken = sources(job, way, DRAWS_MADE)
    axes = (torch.arange(size, dtype=torch.float32) for size in taken.shape[2:])
    displaced = taken - torch.stack(torch.meshgrid(*axes, indexing="ij"))
    # Subtract the mean of the draws, because the tile may be centred on any of the labelled voxels.
    # 4 voxels at the control points are 3.3 on average.
    assert float((displaced - displaced.mean(0)).std()) == pytest.approx(3.3, rel=0.35)
    steepness = torch.stack([displaced.diff(dim=axis).square().mean().sqrt() for axis in (2, 3, 4)]).mean()
    assert 0.1 < float(steepness) < 0.3
