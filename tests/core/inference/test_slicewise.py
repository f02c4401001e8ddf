"""The 2-D counterpart against plain numpy and a plain pass over a padded image."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.core.annotation.slices import AnnotatedSlice, keep_slices
from lib.core.inference.slicewise import prepare_training_slices, segment_slices
from lib.core.labels import LabelScheme
from lib.core.model.model import build_network
from lib.core.plan.options import PlanOptions
from lib.core.plan.plan import Plan
from lib.core.plan.planning import make_plan
from lib.core.volumes.intensity import scale_intensity
from lib.core.volumes.volume import Volume

SCHEME = LabelScheme(("one", "two"), "outside")
SHAPE = (21, 17, 13)
PLACES = (AnnotatedSlice(0, 4), AnnotatedSlice(1, 9), AnnotatedSlice(2, 3), AnnotatedSlice(2, 7))


def volume(spacing: tuple[float, ...] = (1.0, 2.0, 3.0)) -> Volume:
    array = np.random.default_rng(0).integers(0, 4000, (2, *SHAPE)).astype(np.uint16)
    return Volume(array, np.diag([*spacing, 1.0]))


def plan(spacing: tuple[float, ...] | None = None) -> Plan:
    made = make_plan([volume()], SCHEME, PlanOptions(width=2), "cpu")
    return replace(made, dims=2, tile=(132, 132), context=44, spacing=spacing, statistics="tile")


def annotation() -> np.ndarray:
    dense = np.random.default_rng(1).integers(1, 4, SHAPE).astype(np.uint8)
    return keep_slices(dense, PLACES)


def test_each_slice_is_an_image_with_its_own_voxel_size() -> None:
    scaled = scale_intensity(volume().array)
    prepared = prepare_training_slices(volume(), annotation(), PLACES, plan())
    for place, image in zip(PLACES, prepared, strict=True):
        np.testing.assert_array_equal(image.image, np.take(scaled, place.index, axis=1 + place.axis))
        np.testing.assert_array_equal(image.annotation, np.take(annotation(), place.index, axis=place.axis))
        assert image.annotation.min() > 0
    assert [image.voxel_size for image in prepared] == [(2.0, 3.0), (1.0, 3.0), (1.0, 2.0), (1.0, 2.0)]


def test_a_slice_is_segmented_as_by_one_pass_over_it() -> None:
    """Mirrored outside by numpy; the statistics of batch normalisation are frozen."""
    torch.manual_seed(0)
    frozen = replace(plan(), statistics="running")
    network = build_network(frozen).eval()
    segmented = segment_slices(network, volume(), PLACES, frozen, "cpu")
    assert list(segmented) == list(PLACES)
    scaled = scale_intensity(volume().array)
    for place, labels in segmented.items():
        image = np.take(scaled, place.index, axis=1 + place.axis)
        # Valid sizes leave 4 when divided by 8.
        margins = [(44, 44 + (-length - 84) % 8) for length in image.shape[1:]]
        padded = np.pad(image, [(0, 0), *margins], mode="reflect")
        with torch.no_grad():
            expected = network(torch.from_numpy(padded)[None])[0].argmax(0).numpy()
        np.testing.assert_array_equal(labels, expected[: labels.shape[0], : labels.shape[1]])
        assert len(np.unique(labels)) > 1


def test_other_slices_do_not_matter() -> None:
    torch.manual_seed(0)
    network, place = build_network(plan()), PLACES[2]
    (expected,) = segment_slices(network, volume(), [place], plan(), "cpu").values()
    shuffled = volume()
    # The percentiles that scale intensities stay the same.
    shuffled.array[:, :, :, 4:] = shuffled.array[:, :, :, :3:-1]
    segmented = segment_slices(network, shuffled, PLACES, plan(), "cpu")
    np.testing.assert_array_equal(segmented[place], expected)
    assert len(np.unique(expected)) > 1


def test_slices_of_a_coarser_working_grid_come_back_on_the_volumes_own() -> None:
    coarse = plan(spacing=(2.0, 2.0, 3.0))
    (prepared,) = prepare_training_slices(volume(), annotation(), PLACES[:1], coarse)
    assert prepared.annotation.shape == (17, 13)
    assert prepared.annotation.min() > 0
    torch.manual_seed(0)
    segmented = segment_slices(build_network(coarse), volume(), PLACES, coarse, "cpu")
    assert [labels.shape for labels in segmented.values()] == [(17, 13), (21, 13), (21, 17), (21, 17)]


@pytest.mark.parametrize("place", PLACES)
def test_paint_of_crossing_slices_belongs_to_the_image(place: AnnotatedSlice) -> None:
    (prepared,) = prepare_training_slices(volume(), annotation(), [place], plan())
    np.testing.assert_array_equal(prepared.annotation, np.take(annotation(), place.index, axis=place.axis))
