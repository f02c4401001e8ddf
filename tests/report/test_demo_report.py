import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from lib.commands.demo import summarise
from lib.core.colours import colours
from lib.core.labels import LabelScheme
from lib.core.volumes.volume import Volume
from lib.report.demo_report import Segmented, best_slice, demo_page
from lib.report.pictures import CHANNEL_NAMES, composite, view

SCHEME = LabelScheme(("inside", "tubule <1>"), "outside")
LPS = np.diag([-1.0, -1.0, 2.0, 1.0])
RAS = np.diag([1.0, 1.0, 2.0, 1.0])
# Voxel axes run superior, left, anterior.
SLA = np.array([[0, -1.0, 0, 0], [0, 0, 1.0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]])


class Page(HTMLParser):
    """Collects a page's pictures by their alternative text, the colours of the legend, the text, and all sources."""

    def __init__(self, html):
        super().__init__()
        self.pictures, self.sizes, self.chips, self.text, self.sources = {}, {}, [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.sources += [values[key] for key in ("src", "href") if key in values]
        if tag == "img":
            kind, data = values["src"].split(",")
            assert kind == "data:image/png;base64"
            self.pictures[values["alt"]] = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
            if "style" in values:
                pairs = (entry.split(":") for entry in values["style"].split(";"))
                self.sizes[values["alt"]] = {key: int(length.removesuffix("px")) for key, length in pairs}
        if values.get("class") == "chip":
            self.chips.append(values["style"].removeprefix("background:"))

    def handle_data(self, data):
        self.text += data


def segmented(affine=LPS, annotated=True, channels=1, shape=(12, 10, 6), image_id="specimen"):
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 3, shape).astype(np.uint8)
    prediction = np.where(rng.random(shape) < 0.8, truth, 0).astype(np.uint8)
    annotation = np.zeros(shape, np.uint8)
    if annotated:
        annotation[:, :, 2] = np.where(truth[:, :, 2] == 0, 3, truth[:, :, 2])
    volume = Volume(rng.integers(0, 4000, (channels, *shape)).astype(np.uint16), affine)
    return Segmented(image_id, volume, annotation, prediction, truth)


def page(cases):
    history = [
        {"epoch": e, "seconds": 30.0 * e, "loss": 1 / e, "metric": "validation IoU", "score": s, "iou": iou}
        for e, s, iou in [(1, None, None), (2, 0.3, {"inside": None, "tubule <1>": 0.3})]
    ]
    report = summarise(cases, SCHEME, {"seconds": 60.0, "message": "published", "history": history})
    report |= {"slices_per_axis": 3, "seed": 0, "command": "demo", "versions": {"torch": "2"}, "seconds": 90.0}
    return report, Page(demo_page(report, cases, SCHEME))


def shown_voxel(affine, axis, index, row, column, shape):
    """Return the voxel that 3D Slicer shows at a pixel, by world coordinates: right is the patient's left (in sagittal
    slices posterior), down is posterior (in coronal and sagittal slices inferior)."""
    normal = int(np.argmax(np.abs(affine[:3, axis])))
    right, below = {2: ((-1, 0, 0), (0, -1, 0)), 1: ((-1, 0, 0), (0, 0, -1)), 0: ((0, -1, 0), (0, 0, -1))}[normal]
    voxel = [index] * 3
    for direction, step in ((right, column), (below, row)):
        along = affine[:3, :3].T @ np.array(direction)
        other = int(np.argmax(np.abs(along)))
        voxel[other] = step if along[other] > 0 else shape[other] - 1 - step
    return tuple(voxel)


@pytest.mark.parametrize("affine", [LPS, RAS, SLA], ids=["LPS", "RAS", "SLA"])
def test_pictures_have_the_legends_colours_where_labels_are(affine):
    case = segmented(affine)
    _, shown = page([case, segmented(affine, annotated=False, image_id="other")])
    assert len(shown.chips) == 3
    legend = [tuple(bytes.fromhex(chip[1:])) for chip in shown.chips]
    maps = {"annotation": case.annotation, "prediction": case.prediction, "truth": case.truth}
    for axis in range(3):
        index = best_slice(case, axis)
        where = f"of specimen, {'xyz'[axis]} = {index}"
        for what, labels in maps.items():
            picture = shown.pictures[f"{what} {where}"]
            for row, column in np.ndindex(picture.shape[:2]):
                value = labels[shown_voxel(affine, axis, index, row, column, labels.shape)]
                pixel = tuple(picture[row, column])
                # Unlabelled and predicted background show the grey image.
                assert pixel == legend[value - 1] if value else pixel[0] == pixel[1] == pixel[2]


def test_page_loads_nothing_and_names_are_escaped():
    _, shown = page([segmented(), segmented(annotated=False, image_id="other")])
    assert all(source.startswith("data:") for source in shown.sources)
    assert "IoU tubule <1>" in shown.text
    assert "Loss and IoU over the minutes of training" in shown.pictures
    # 2 volumes, 3 axes, 4 pictures, and the training curve
    assert len(shown.pictures) == 25


def test_headline_gives_the_result():
    report, shown = page([segmented(), segmented(annotated=False, image_id="other")])
    assert f"mean IoU of {report['semi_automated']['mean_foreground_iou']:.2f}" in shown.text
    assert f"nobody annotated with {report['fully_automated']['mean_foreground_iou']:.2f}" in shown.text


def test_pictures_have_the_proportions_of_the_specimen():
    case = segmented()
    _, shown = page([case, segmented(annotated=False, image_id="other")])
    sizes = {alternative.split(", ")[1][0]: size for alternative, size in shown.sizes.items() if "image" in alternative}
    # There are 12 × 10 × 6 voxels of 1 × 1 × 2; the longest side, 12, gets the full width.
    assert sizes["z"]["width"] / sizes["z"]["height"] == pytest.approx(12 / 10, rel=0.02)
    assert sizes["y"]["width"] / sizes["y"]["height"] == pytest.approx(12 / 12, rel=0.02)
    assert sizes["x"]["width"] / sizes["x"]["height"] == pytest.approx(10 / 12, rel=0.02)


def test_shown_slice_is_away_from_annotated_ones():
    case = segmented(shape=(6, 6, 20))
    case.annotation[:] = 0
    case.annotation[:, :, 5] = 3
    case.truth[:] = 0
    case.truth[:, :, :9] = 1
    # 2 to 8 are too near to the annotated slice; of the rest only 0 and 1 show anything.
    assert best_slice(case, 2) in (0, 1)
    case.truth[0, 0, 0] = 2
    assert best_slice(case, 2) == 0


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_channels_are_shown_in_the_colours_that_the_page_names(channels):
    plane = np.zeros((channels, 1, channels), np.float32)
    plane[range(channels), 0, range(channels)] = 1
    picture = composite(plane)
    rgb = {"grey": (255,) * 3, "magenta": (255, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0), "blue": (0, 0, 255)}
    for channel, name in enumerate(CHANNEL_NAMES[min(channels, 3)]):
        assert tuple(picture[0, channel]) == rgb[name]


def test_views_follow_the_directions_that_slicer_misreads():
    volume = Volume(np.zeros((2, 4, 5, 6)), RAS, slicer_affine=LPS)
    assert view(volume, 2, 0).flips == frozenset()
    assert view(Volume(np.zeros((2, 4, 5, 6)), RAS), 2, 0).flips == frozenset({0, 1})


def test_every_class_has_its_own_colour():
    many = LabelScheme(tuple(f"class_{n}" for n in range(6)), "outside")
    assert len({tuple(colour) for colour in colours(many)}) == 8
