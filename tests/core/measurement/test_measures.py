"""Measures against closed forms, SimpleITK's statistics and plain loops."""

import numpy as np
import pytest
import SimpleITK as sitk

import shapes
from lib.core.errors import InputError
from lib.core.measurement import measures
from lib.core.measurement.measures import MeasuringOptions, measure
from lib.core.volumes.volume import LPS_TO_RAS

TURNED = pytest.mark.parametrize("turned", [0, 25])
SPACING = pytest.mark.parametrize("spacing", [(1, 1, 1), (0.5, 0.5, 1)], ids=str)


def scaled(spacing):
    return np.diag([*map(float, spacing), 1.0])


def whole(mask, affine, **options):
    of = measure(mask.astype(np.uint8), affine, ["it"], MeasuringOptions(**options))["it"]
    assert of.objects == 1
    assert of.each[0] == of.whole
    return of.whole


@SPACING
def test_ball(spacing):
    found = whole(shapes.ball(shapes.places(30, spacing), 15), scaled(spacing))
    assert found.volume == pytest.approx(4 / 3 * np.pi * 15**3, rel=0.02)
    assert found.surface == pytest.approx(4 * np.pi * 15**2, rel=0.02)
    assert found.extent == pytest.approx([30] * 3, abs=max(spacing))
    assert found.length is None
    assert not found.touches_border


@TURNED
def test_brick(turned):
    found = whole(shapes.brick(shapes.places(90, (1, 1, 1), turned), (40, 32, 54)), np.eye(4))
    assert found.volume == pytest.approx(40 * 32 * 54, rel=0.02)
    assert found.surface == pytest.approx(2 * (40 * 32 + 32 * 54 + 40 * 54), rel=0.02)


@TURNED
@SPACING
def test_torus(spacing, turned):
    mask = shapes.torus(shapes.places(52, spacing, turned), 20, 6)
    found = whole(mask, scaled(spacing), tubes=("it",))
    assert found.volume == pytest.approx(2 * np.pi**2 * 20 * 6**2, rel=0.02)
    assert found.surface == pytest.approx(4 * np.pi**2 * 20 * 6, rel=0.02)
    assert found.length == pytest.approx(2 * np.pi * 20, rel=0.02)


SIZE = (0.7, 0.9, 1.4)


def in_itk(array, to_lps):
    image = sitk.GetImageFromArray(array.T)
    image.SetSpacing(SIZE)
    image.SetDirection((to_lps[:3, :3] / SIZE).ravel())
    image.SetOrigin(to_lps[:3, 3])
    return image


def test_objects_agree_with_itk():
    rng = np.random.default_rng(0)
    labels = np.zeros((40, 36, 28), np.uint8)
    for length, (x, y, z) in enumerate(rng.integers(0, 24, (6, 3)), start=4):
        labels[x : x + length, y : y + 7, z : z + 4] = 1 + length % 2
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.linalg.qr(rng.normal(size=(3, 3)))[0] * SIZE, [10, -20, 30]
    channels = rng.integers(0, 4000, (2, *labels.shape)).astype(np.int16)
    found = measure(labels, affine, ["a", "b"], MeasuringOptions(neighbours=6), channels)

    to_lps = LPS_TO_RAS @ affine
    images = [in_itk(channel, to_lps) for channel in channels]
    for value, name in enumerate(["a", "b"], start=1):
        components = sitk.RelabelComponent(sitk.ConnectedComponent(in_itk((labels == value).astype(np.uint8), to_lps)))
        shape = sitk.LabelShapeStatisticsImageFilter()
        shape.Execute(components)
        means = sitk.LabelStatisticsImageFilter()
        assert len(found[name].each) == len(shape.GetLabels()) > 1
        # Both sort objects by size, and no two of these are of equal size.
        for of, label in zip(found[name].each, shape.GetLabels(), strict=True):
            assert of.voxels == shape.GetNumberOfPixels(label)
            assert of.volume == pytest.approx(shape.GetPhysicalSize(label))
            assert of.centroid == pytest.approx(shape.GetCentroid(label))
            assert of.extent == pytest.approx(np.multiply(shape.GetBoundingBox(label)[3:], SIZE))
            assert of.touches_border == (shape.GetNumberOfPixelsOnBorder(label) > 0)
            for image, mean in zip(images, of.intensities, strict=True):
                means.Execute(image, components)
                assert mean == pytest.approx(means.GetMean(label))


def test_a_class_is_all_its_objects_together():
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[2:8, 2:8, 2:8], labels[10:20, 10:14, 10:14] = 1, 1
    channel = np.arange(labels.size, dtype=np.float64).reshape(1, *labels.shape)
    of = measure(labels, np.diag([1.0, 1.0, 2.0, 1.0]), ["a", "b"], MeasuringOptions(tubes=("a",)), channel)["a"]
    assert of.objects == 2
    assert of.whole.voxels == 6**3 + 10 * 4 * 4
    assert of.whole.intensities == pytest.approx([channel[0][labels == 1].mean()])
    assert of.whole.centroid == pytest.approx([-1, -1, 2] * np.argwhere(labels).mean(axis=0))
    assert of.whole.surface == pytest.approx(sum(each.surface for each in of.each))
    assert of.whole.length == pytest.approx(sum(each.length for each in of.each))
    assert of.whole.extent == (18, 12, 24)


def test_a_class_without_voxels():
    of = measure(np.ones((4, 4, 4), np.uint8), np.eye(4), ["a", "b"], MeasuringOptions(tubes=("b",)))["b"]
    assert (of.objects, of.whole, of.each, of.mesh) == (0, None, (), None)


def test_small_objects_are_left_out_and_counted():
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[2:6, 2:6, 2:6], labels[10, 10, 10], labels[15, 15, 14:17] = 1, 1, 1
    of = measure(labels, np.eye(4), ["a"], MeasuringOptions(least_voxels=4))["a"]
    assert (of.objects, of.left_out, of.left_out_voxels, of.whole.voxels) == (1, 2, 4, 64)
    none = measure(labels, np.eye(4), ["a"], MeasuringOptions(least_voxels=65))["a"]
    assert (none.objects, none.left_out, none.left_out_voxels, none.whole) == (0, 3, 68, None)


def test_too_many_objects_have_no_measures_of_their_own(monkeypatch):
    monkeypatch.setattr(measures, "MOST_OBJECTS", 3)
    labels = np.zeros((20, 4, 4), np.uint8)
    labels[:7:2], labels[10], labels[12] = 1, 2, 2
    found = measure(labels, np.eye(4), ["a", "b"], MeasuringOptions())
    assert (found["a"].objects, found["a"].each, found["a"].whole.voxels) == (4, (), 64)
    assert len(found["b"].each) == 2


def test_what_is_no_class_is_refused():
    labels = np.full((4, 4, 4), 3, np.uint8)
    with pytest.raises(InputError, match=r"voxels of value 3, but 2 classes \(a, b\)"):
        measure(labels, np.eye(4), ["a", "b"], MeasuringOptions())
    with pytest.raises(InputError, match="--tubes: there is no class 'd'; the classes are a, b, c"):
        measure(labels, np.eye(4), ["a", "b", "c"], MeasuringOptions(tubes=("d",)))
