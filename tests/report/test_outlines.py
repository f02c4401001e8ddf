"""Outlines of classes, drawn again by Pillow and compared with the classes."""

import re

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from lib.core.colours import colours
from lib.core.labels import LabelScheme
from lib.report.outlines import outlines

SCHEME = LabelScheme(("inside", "tubule"), "outside")
SCALE = 8


def drawn(path, shape):
    """Fill an SVG path by the even-odd rule; return the share of each pixel that is filled."""
    filled = np.zeros([SCALE * side for side in shape], bool)
    for line in re.findall(r"M([^MZ]+)Z", path):
        points = [tuple(SCALE * float(number) for number in point.split()) for point in line.split("L")]
        image = Image.new("1", filled.shape[::-1])
        ImageDraw.Draw(image).polygon(points, fill=1)
        filled ^= np.asarray(image)
    return filled.reshape(shape[0], SCALE, shape[1], SCALE).mean(axis=(1, 3))


def smooth_labels(seed):
    """Return (rows, columns) labels in large pieces, some of them at the edges, with holes."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(60, 48)), 3)
    return np.digitize(noise, np.quantile(noise, [0.5, 0.8])).astype(np.uint8)


@pytest.mark.parametrize("seed", range(3))
def test_a_filled_outline_is_the_class(seed):
    plane = smooth_labels(seed)
    found = outlines({"paint": plane}, SCHEME.foreground, colours(SCHEME))
    assert {one.name for one in found} == set(SCHEME.foreground)
    for one in found:
        mask = plane == 1 + SCHEME.foreground.index(one.name)
        wrong = np.abs(drawn(one.path, plane.shape) - mask)
        # Lines cut the corners of voxels, and Pillow also fills the pixels under a line.
        assert wrong.sum() < 0.12 * mask.sum()
        assert not (wrong > 0.5).any()


def test_colours_order_and_kinds():
    plane = np.zeros((20, 20), np.uint8)
    plane[4:16, 4:16], plane[8:12, 8:12] = 2, 1
    found = outlines({"paint": plane, "prediction": plane * 0}, SCHEME.foreground, colours(SCHEME))
    # The inner class is drawn last, over the line that both have.
    assert [(one.kind, one.name, one.colour) for one in found] == [
        ("paint", "tubule", "#56b4e9"),
        ("paint", "inside", "#e69f00"),
    ]
    corners = np.array([[float(n) for n in point.split()] for point in re.split("[MLZ]", found[1].path) if point])
    assert corners.min(axis=0).tolist() == [8, 8]
    assert corners.max(axis=0).tolist() == [12, 12]


def test_background_has_no_outline():
    assert outlines({"paint": np.full((5, 5), 3, np.uint8)}, SCHEME.foreground, colours(SCHEME)) == []
