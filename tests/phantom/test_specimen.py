"""The phantom against what can be counted, measured and read back with other software."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pytest
import SimpleITK
from scipy.ndimage import binary_dilation, distance_transform_edt, label

from lib.phantom.specimen import PAPER_SPECIMENS, SAMPLE_SPECIMENS, Specimen, make_phantom, write_samples

pytestmark = pytest.mark.slow

SMALL = Specimen((72, 64, 40), seed=5)
PLAIN = replace(SMALL, photons=1e7, read_noise=0.0, seams=0.0, attenuation=1e9)
"""A recording without noise, seams and attenuation."""
DARK, FULL, OFFSET = 100.0, 2400.0, 0.04
"""Stored value of darkness, the value that full brightness adds, and the mean brightness that tiles add."""


class Sample(NamedTuple):
    specimen: Specimen
    image_path: Path
    truth_path: Path
    image: np.ndarray
    truth: np.ndarray


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """The sample datastore, written once and read back with nibabel."""
    folder = tmp_path_factory.mktemp("samples")
    paths = write_samples(folder / "images", folder / "truth")
    read = []
    for specimen, path in zip(SAMPLE_SPECIMENS, paths, strict=True):
        truth_path = folder / "truth" / path.name
        image = np.asarray(nibabel.load(path).dataobj)
        read.append(
            Sample(
                specimen,
                path,
                truth_path,
                np.moveaxis(image[:, :, :, 0], -1, 0),
                np.asarray(nibabel.load(truth_path).dataobj),
            )
        )
    return read


@pytest.fixture(scope="module")
def small():
    return make_phantom(SMALL)


@pytest.fixture(scope="module")
def plain():
    image, truth = make_phantom(PLAIN)
    return image.astype(float), truth


def best_band_iou(values, member):
    """Best IoU of any band low <= value < high with ``member``; a threshold is a band with an open end."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, 257)))
    edges = np.append(edges, edges[-1] + 1)
    every = np.concatenate([[0], np.cumsum(np.histogram(values, edges)[0])])
    hits = np.concatenate([[0], np.cumsum(np.histogram(values[member], edges)[0])])
    best = 0.0
    for low in range(len(edges)):
        chosen, true = every[low:] - every[low], hits[low:] - hits[low]
        best = max(best, float(np.max(true / (hits[-1] + chosen - true))))
    return best


def best_lookup_iou(image, member, bins=12):
    """Best IoU of any set of cells of the joint histogram of all channels: the best that colours alone allow."""
    cell = np.zeros(member.size, int)
    for channel in image:
        edges = np.quantile(channel, np.linspace(0, 1, bins + 1)[1:-1])
        cell = cell * bins + np.searchsorted(edges, channel.ravel())
    every = np.bincount(cell, minlength=bins**3)
    hits = np.bincount(cell[member.ravel()], minlength=bins**3)
    # The best set takes the cells with the highest share of members.
    order = np.argsort(-hits / np.maximum(every, 1))
    chosen, true = np.cumsum(every[order]), np.cumsum(hits[order])
    return float(np.max(true / (hits.sum() + chosen - true)))


def test_brightness_measures_find_what_brightness_alone_can_tell():
    rng = np.random.default_rng(0)
    member = rng.random((20, 20, 20)) < 0.1
    image = np.stack([np.where(member, 5, rng.integers(0, 5, member.shape)), rng.integers(0, 9, member.shape)])
    assert best_band_iou(image[0], member) == 1
    assert best_band_iou(-image[0], member) == 1
    assert best_band_iou(np.abs(image[0] - 5), member) == 1
    assert best_band_iou(image[1], member) < 0.15
    assert best_lookup_iou(image, member, bins=6) == 1


def test_form(samples):
    for sample in samples:
        assert sample.image.shape == (3, 128, 128, 64)
        assert sample.image.dtype == np.uint16
        assert sample.image.max() <= 4095
        # Hardly any voxel is clipped at either end of the detector's range.
        assert np.mean((sample.image == 0) | (sample.image == 4095)) < 0.005
        assert sample.truth.shape == (128, 128, 64)
        assert sample.truth.dtype == np.uint8
        assert set(np.unique(sample.truth)) == {0, 1, 2}


def test_class_fractions(samples):
    for sample in samples:
        assert 0.02 < np.mean(sample.truth == 1) < 0.05
        assert 0.08 < np.mean(sample.truth == 2) < 0.15


@pytest.mark.parametrize("value", [1, 2])
def test_intensity_alone_does_not_solve_it(samples, value):
    for sample in samples:
        member = sample.truth == value
        for channel in sample.image:
            assert best_band_iou(channel, member) < 0.5
        assert best_lookup_iou(sample.image, member) < 0.5


def test_lumen_lies_within_the_wall(samples):
    for sample in samples:
        around = binary_dilation(sample.truth == 1, np.ones((3, 3, 3)))
        assert not np.any(around & (sample.truth == 0))


def test_tubules_are_few_long_and_open(samples):
    for sample in samples:
        parts, count = label(sample.truth > 0)
        sizes = np.bincount(parts.ravel())[1:]
        assert 1 <= count <= 10
        # The largest is longer than a straight tube through the volume.
        straight = 128 * np.pi * (sample.specimen.calibre / sample.specimen.spacing[0]) ** 2
        assert sizes.max() > 1.5 * straight
        lumina, _ = label(sample.truth == 1)
        for part in np.flatnonzero(sizes > 3000) + 1:
            inside = np.bincount(lumina[parts == part])[1:]
            assert inside.max() > 0.5 * inside.sum()
        assert np.mean(np.bincount(lumina.ravel())[1:]) > 1000


def test_calibre(samples):
    measured = []
    for sample in samples:
        depth = distance_transform_edt(sample.truth > 0, sampling=sample.specimen.spacing)
        # The innermost tenth of the lumen is on the centre line; the distance there is the outer radius.
        measured.append(np.percentile(depth[sample.truth == 1], 90) / sample.specimen.calibre)
    np.testing.assert_allclose(measured, 1.0, atol=0.15)


def test_channels_show_their_structures(samples):
    for sample in samples:
        stain, nuclei, membranes = sample.image.astype(float)
        wall, lumen, outside = (sample.truth == value for value in (2, 1, 0))
        assert stain[wall].mean() > 1.5 * stain[outside].mean() > 1.2 * stain[lumen].mean()
        assert nuclei[outside].mean() > nuclei[lumen].mean()
        assert membranes[outside].mean() > membranes[lumen].mean()


def test_a_specimen_is_repeatable(small):
    image, truth = small
    again, truth_again = make_phantom(SMALL)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(truth, truth_again)
    other_image, other_truth = make_phantom(replace(SMALL, seed=6))
    assert np.any(other_image != image)
    assert np.any(other_truth != truth)


def test_samples_differ(samples):
    for i, one in enumerate(samples):
        for other in samples[:i]:
            both = (one.truth > 0) & (other.truth > 0)
            either = (one.truth > 0) | (other.truth > 0)
            assert both.sum() / either.sum() < 0.3
            # The bright parts of some channel differ by more than 15 %.
            brightness = [np.percentile(sample.image, 95, axis=(1, 2, 3)) - DARK for sample in (one, other)]
            assert np.max(np.abs(np.log(brightness[0] / brightness[1]))) > 0.15


def test_recording_does_not_change_the_anatomy(small, plain):
    np.testing.assert_array_equal(small[1], plain[1])


def test_light_falls_with_depth(plain):
    faded = make_phantom(replace(PLAIN, attenuation=120.0))[0].astype(float)
    light = [(image - DARK).mean(axis=(1, 2)) - FULL * OFFSET for image in (faded, plain[0])]
    depth = np.arange(SMALL.shape[2]) * SMALL.spacing[2]
    np.testing.assert_allclose(light[0] / light[1], np.tile(np.exp(-depth / 120), (3, 1)), rtol=0.02)


def test_four_tiles_differ_in_gain_and_offset(plain):
    stitched = make_phantom(replace(PLAIN, seams=0.1))[0].astype(float)
    for before, after in zip(plain[0], stitched, strict=True):
        # The gain of each column of voxels along z, by least squares.
        centred = before - before.mean(axis=2, keepdims=True)
        gain = (centred * after).sum(axis=2) / (centred**2).sum(axis=2)
        cut_x = 1 + int(np.argmax(np.abs(np.diff(gain, axis=0)).sum(axis=1)))
        cut_y = 1 + int(np.argmax(np.abs(np.diff(gain, axis=1)).sum(axis=0)))
        assert 0.4 < cut_x / SMALL.shape[0] < 0.6
        assert 0.4 < cut_y / SMALL.shape[1] < 0.6
        tiles = [gain[x, y] for x in (slice(cut_x), slice(cut_x, None)) for y in (slice(cut_y), slice(cut_y, None))]
        for tile in tiles:
            assert np.std(tile) < 0.01
        gains = np.sort([np.mean(tile) for tile in tiles])
        assert np.min(np.diff(gains)) > 0.001
        assert gains[-1] - gains[0] > 0.05


def test_noise_is_that_of_photons_and_detector(plain):
    photons, read_noise = 50.0, 3.0
    noisy = make_phantom(replace(PLAIN, photons=photons, read_noise=read_noise))[0].astype(float)
    for light in (0.1, 0.3, 0.6):
        there = np.abs((plain[0] - DARK) / FULL - light) < 0.01
        expected = (FULL / photons) * np.sqrt(light * photons + read_noise**2)
        assert np.std((noisy - plain[0])[there]) == pytest.approx(expected, rel=0.05)


def test_blur_is_wider_along_z(plain):
    steps = [np.mean(np.abs(np.diff(plain[0][2], axis=axis))) for axis in range(3)]
    assert steps[2] < 0.85 * min(steps[:2])
    assert steps[0] == pytest.approx(steps[1], rel=0.1)


def test_specimen_too_small_for_anything_else():
    image, truth = make_phantom(Specimen((24, 20, 16), seed=0))
    assert image.shape == (3, 24, 20, 16)
    assert truth.shape == (24, 20, 16)


def test_paper_sizes():
    assert [specimen.shape for specimen in PAPER_SPECIMENS] == [(248, 244, 64), (245, 244, 56), (246, 244, 59)]
    assert {specimen.spacing for specimen in PAPER_SPECIMENS} == {(1.76, 1.76, 2.04)}


def test_names(samples):
    assert [sample.image_path.name for sample in samples] == [f"kidney_{n}.nii.gz" for n in (1, 2, 3)]
    for folder in (samples[0].image_path.parent, samples[0].truth_path.parent):
        assert sorted(path.name for path in folder.iterdir()) == [f"kidney_{n}.nii.gz" for n in (1, 2, 3)]


def test_files_hold_the_phantom(small, tmp_path):
    paths = write_samples(tmp_path / "images", tmp_path / "truth", [SMALL])
    assert paths == [tmp_path / "images" / "kidney_1.nii.gz"]
    image, truth = nibabel.load(paths[0]), nibabel.load(tmp_path / "truth" / "kidney_1.nii.gz")
    assert image.header.get_intent()[0] == "vector"
    assert image.shape == (72, 64, 40, 1, 3)
    for nifti in (image, truth):
        assert nifti.header.get_xyzt_units()[0] == "mm"
        np.testing.assert_allclose(nifti.get_qform(), np.diag([-1.76, -1.76, 2.04, 1]), atol=1e-6)
        np.testing.assert_allclose(nifti.get_sform(), np.diag([-1.76, -1.76, 2.04, 1]), atol=1e-6)
    np.testing.assert_array_equal(np.moveaxis(np.asarray(image.dataobj)[:, :, :, 0], -1, 0), small[0])
    np.testing.assert_array_equal(np.asarray(truth.dataobj), small[1])


def test_other_software_reads_a_vector_image_in_place(samples):
    """SimpleITK reads NIfTI with the library that 3D Slicer reads it with."""
    image = SimpleITK.ReadImage(samples[0].image_path)
    truth = SimpleITK.ReadImage(samples[0].truth_path)
    assert image.GetDimension() == 3
    assert image.GetNumberOfComponentsPerPixel() == 3
    assert image.GetPixelIDTypeAsString() == "vector of 16-bit unsigned integer"
    for read in (image, truth):
        np.testing.assert_allclose(read.GetSpacing(), (1.76, 1.76, 2.04), rtol=1e-6)
        np.testing.assert_allclose(read.GetDirection(), np.eye(3).ravel(), atol=1e-6)
        np.testing.assert_allclose(read.GetOrigin(), 0, atol=1e-6)
    # SimpleITK's arrays are (Z, Y, X, C).
    np.testing.assert_array_equal(
        np.moveaxis(SimpleITK.GetArrayFromImage(image), -1, 0).T, np.moveaxis(samples[0].image, 0, -1)
    )
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(truth).T, samples[0].truth)
