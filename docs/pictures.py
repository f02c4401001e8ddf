"""Makes the pictures of the README and ``slicer.md``: sample volumes annotated and segmented with the real plugin.

From the project's folder, with ``requirements-dev.txt`` installed: ``python docs/pictures.py`` (about six minutes).
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import vtk
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFont
from scipy.ndimage import binary_erosion
from vtk.util import numpy_support

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT / path) for path in ("apps/sparse_unet3d", "tests", "tests/slicer")]

from annotator import CLASSES, PREDICTED, Annotator  # noqa: E402
from lib.core.annotation.slices import AnnotatedSlice, keep_slices  # noqa: E402
from lib.core.labels import LabelScheme  # noqa: E402
from lib.core.volumes.intensity import scale_intensity  # noqa: E402
from lib.core.volumes.reading import read_label_map, read_volume  # noqa: E402
from lib.core.volumes.volume import Volume  # noqa: E402
from lib.phantom.samples import make_samples  # noqa: E402
from lib.report.pictures import composite, view  # noqa: E402
from lib.server.slicer.segments import ANNOTATE_HERE  # noqa: E402
from lib.simulation.annotator import choose_slices, paint_slices, truth_as_annotation  # noqa: E402
from serving import Server  # noqa: E402

SCHEME = LabelScheme(("inside", "tubule"), "outside")
VIEWS = ((2, "axial", (231, 76, 60)), (1, "coronal", (110, 176, 75)), (0, "sagittal", (237, 213, 76)))
"""Axis, name and colour of 3D Slicer's slice views."""

ZOOM, GAP, BAR, LEGEND = 3, 12, 26, 36
ARROW, CAPTION = 70, 44
"""Sizes in pixels, except for ``ZOOM``, the number of screen pixels per voxel."""

CAPTIONS = ("You paint a few slices", "The model predicts the rest", "The result as a surface")
"""Titles above the parts of the README's picture."""

FILL, OUTLINE = 0.5, 1.0
"""Opacity of segments in 3D Slicer's slice views."""


def draw_views(path: Path, volume: Volume, annotator: Annotator, segments: list[str], places: list[int]) -> None:
    """Draw segments over the volume in the three slice views.

    Args:
        path: PNG file.
        volume: the image.
        annotator: the session whose scene is shown.
        segments: names of the visible segments.
        places: index of the slice in each view.
    """
    image = scale_intensity(volume.array)
    masks = {name: annotator.painted(name) for name in segments}
    tint = {name: colour(annotator, name) for name in segments}
    panels = []
    for (axis, title, bar), index in zip(VIEWS, places, strict=True):
        layout = view(volume, axis, index)
        picture = composite(layout.of(image)).astype(np.float32)
        sides = [volume.spacing[layout.across], volume.spacing[layout.down]]
        picture = enlarge(picture, sides)
        for name in segments:
            mask = enlarge(layout.of(masks[name]), sides)
            edge = mask & ~binary_erosion(mask, iterations=2, border_value=1)
            for where, opacity in ((mask & ~edge, FILL), (edge, OUTLINE)):
                picture[where] = (1 - opacity) * picture[where] + opacity * np.array(tint[name])
        panels.append(framed(Image.fromarray(picture.astype(np.uint8)), f"{title}, slice {index}", bar))
    width = sum(panel.width for panel in panels) + GAP * (len(panels) - 1)
    whole = Image.new("RGB", (width, max(panel.height for panel in panels) + LEGEND), "white")
    left = 0
    for panel in panels:
        whole.paste(panel, (left, 0))
        left += panel.width + GAP
    draw, left = ImageDraw.Draw(whole), 0
    for name in segments:
        draw.rectangle((left, whole.height - 22, left + 16, whole.height - 6), fill=tint[name], outline="black")
        draw.text((left + 24, whole.height - 24), name, fill="black", font=ImageFont.load_default(17))
        left += 48 + int(draw.textlength(name, font=ImageFont.load_default(17)))
    whole.save(path)


def enlarge(plane: NDArray, spacing: list[float]) -> NDArray:
    """Repeat the pixels of a plane (rows, columns, …) so that the picture has the proportions of the volume."""
    across, down = (round(ZOOM * side / min(spacing) * 8) for side in spacing)
    columns = np.arange(plane.shape[1] * across // 8) * 8 // across
    rows = np.arange(plane.shape[0] * down // 8) * 8 // down
    return plane[rows][:, columns]


def framed(picture: Image.Image, title: str, bar: tuple[int, int, int]) -> Image.Image:
    """Put a view's coloured bar with its title above a picture."""
    panel = Image.new("RGB", (picture.width, picture.height + BAR), bar)
    panel.paste(picture, (0, BAR))
    ImageDraw.Draw(panel).text((8, 3), title, fill="black", font=ImageFont.load_default(16))
    return panel


def colour(annotator: Annotator, segment: str) -> tuple[int, int, int]:
    """Return the colour of a segment in the scene."""
    segmentation = annotator.segmentation
    red, green, blue = segmentation.GetSegment(segmentation.GetSegmentIdBySegmentName(segment)).GetColor()
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_surface(path: Path, volume: Volume, annotator: Annotator) -> None:
    """Render the predicted segments as surfaces, the outer ones transparent."""
    renderer = vtk.vtkRenderer()
    renderer.SetBackground(1, 1, 1)
    for name, opacity in zip(PREDICTED, (1.0, 0.35), strict=True):
        mask = np.pad(annotator.painted(name).astype(np.uint8), 1)
        grid = vtk.vtkImageData()
        grid.SetDimensions(mask.shape)
        grid.SetSpacing(volume.spacing)
        grid.GetPointData().SetScalars(numpy_support.numpy_to_vtk(mask.ravel(order="F"), deep=True))
        surface = vtk.vtkFlyingEdges3D()
        surface.SetInputData(grid)
        surface.SetValue(0, 0.5)
        smooth = vtk.vtkWindowedSincPolyDataFilter()
        smooth.SetInputConnection(surface.GetOutputPort())
        smooth.SetNumberOfIterations(20)
        smooth.SetPassBand(0.08)
        mapper = vtk.vtkPolyDataMapper()
        mapper.SetInputConnection(smooth.GetOutputPort())
        mapper.ScalarVisibilityOff()
        actor = vtk.vtkActor()
        actor.SetMapper(mapper)
        actor.GetProperty().SetColor(*(part / 255 for part in colour(annotator, name)))
        actor.GetProperty().SetOpacity(opacity)
        renderer.AddActor(actor)
    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetMultiSamples(0)
    window.SetAlphaBitPlanes(1)
    renderer.SetUseDepthPeeling(1)
    renderer.SetMaximumNumberOfPeels(30)
    window.SetSize(1100, 700)
    window.AddRenderer(renderer)
    renderer.ResetCamera()
    renderer.GetActiveCamera().Elevation(-55)
    renderer.GetActiveCamera().Zoom(1.35)
    renderer.ResetCameraClippingRange()
    window.Render()
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
    grab.ReadFrontBufferOff()
    writer = vtk.vtkPNGWriter()
    writer.SetFileName(str(path))
    writer.SetInputConnection(grab.GetOutputPort())
    writer.Write()


def compose_loop(images: Path) -> None:
    """Compose the README's picture from those of the guide: painted slice, predicted slice, surface.

    Args:
        images: folder with ``paint.png``, ``predicted.png`` and ``surface.png``; ``loop.png`` is written there.
    """
    panels = []
    for name in ("paint", "predicted"):
        views = Image.open(images / f"{name}.png")
        # The axial view is the first one, and square.
        side = views.height - BAR - LEGEND
        panels.append(views.crop((0, BAR, side, BAR + side)))
    surface = Image.open(images / "surface.png").convert("RGB")
    surface = surface.crop(ImageChops.invert(surface).getbbox())
    panels.append(surface.resize((round(surface.width * side / surface.height), side), Image.Resampling.LANCZOS))

    width = sum(panel.width for panel in panels) + ARROW * (len(panels) - 1)
    whole = Image.new("RGB", (width, side + CAPTION), "white")
    draw, font, left = ImageDraw.Draw(whole), ImageFont.load_default(26), 0
    for panel, caption in zip(panels, CAPTIONS, strict=True):
        whole.paste(panel, (left, CAPTION))
        draw.text((left + panel.width / 2, CAPTION / 2), caption, fill="black", font=font, anchor="mm")
        left += panel.width + ARROW
        if left < width:
            tip, middle = left - ARROW // 5, CAPTION + side // 2
            draw.line((left - ARROW * 4 // 5, middle, tip, middle), fill="black", width=4)
            draw.polygon(((tip, middle), (tip - 16, middle - 10), (tip - 16, middle + 10)), fill="black")
    whole.save(images / "loop.png")


def main() -> None:
    parser = argparse.ArgumentParser(description="Makes the pictures of the README and of slicer.md.")
    parser.add_argument("--minutes", type=float, default=4, help="how long to train (default: %(default)s)")
    minutes = parser.parse_args().minutes
    images = PROJECT / "docs" / "images"
    images.mkdir(exist_ok=True)
    make_samples(PROJECT / "datastore", PROJECT / "sample_truth")
    with tempfile.TemporaryDirectory() as scratch:
        studies, folder = Path(scratch, "studies"), Path(scratch, "server")
        studies.mkdir()
        folder.mkdir()
        for path in sorted((PROJECT / "datastore").glob("kidney_*")):
            shutil.copy(path, studies)
        server = Server(studies, folder).wait()
        try:
            annotate_and_draw(Annotator(server.url, Path(scratch, "slicer"), "your name"), studies, images, minutes)
        finally:
            server.stop()
    compose_loop(images)


def annotate_and_draw(annotator: Annotator, studies: Path, images: Path, minutes: float) -> None:
    """Annotate two volumes, train, run the model on the first, and draw what Slicer shows at each stage."""
    rng = np.random.default_rng(0)
    annotator.connect()
    for number in range(2):
        name = annotator.next_sample()
        volume = read_volume(studies / f"{name}.nii.gz")
        truth = np.asarray(read_label_map(PROJECT / "sample_truth" / f"{name}.nii.gz").array)
        if number == 0:
            first, first_volume = name, volume
            places = [choose_slices(truth, axis, 1, rng)[0] for axis, _, _ in VIEWS]
            slices = [AnnotatedSlice(axis, index) for (axis, _, _), index in zip(VIEWS, places, strict=True)]
            annotator.paint_annotation(keep_slices(truth_as_annotation(truth, SCHEME), slices))
            draw_views(images / "paint.png", volume, annotator, list(CLASSES), places)
            print(json.dumps(annotator.submit(), indent=2))
        annotator.paint_annotation(paint_slices(truth, SCHEME, 3, rng))
        print(json.dumps(annotator.submit(), indent=2))
    annotator.set_option("train", "sparse_unet3d", "max_minutes", f"{minutes:g}")
    annotator.set_option("train", "sparse_unet3d", "max_epochs", "100000")
    annotator.train()
    assert not annotator.errors, annotator.errors
    while annotator.ui.stopTrainingButton.enabled:
        time.sleep(5)
        annotator.let_time_pass()
        print(f"training: accuracy {annotator.ui.accuracyProgressBar.value} %", flush=True)
    while annotator.next_sample() != first:
        assert not annotator.errors, annotator.errors
    annotator.run()
    unpainted = [place + 4 for place in places]
    draw_views(images / "predicted.png", first_volume, annotator, list(PREDICTED), unpainted)
    draw_surface(images / "surface.png", first_volume, annotator)
    annotator.run("next_slices")
    marks = annotator.painted(ANNOTATE_HERE)
    # The marked slice across an axis is the one with the most marked voxels.
    marked = [int(np.argmax(np.moveaxis(marks, axis, 0).sum(axis=(1, 2)))) for axis, _, _ in VIEWS]
    draw_views(images / "next_slices.png", first_volume, annotator, [*PREDICTED, ANNOTATE_HERE], marked)


if __name__ == "__main__":
    main()
