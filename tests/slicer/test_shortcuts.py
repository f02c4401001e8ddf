"""The script of shortcuts, loaded as its documentation says, beside the real plugin."""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from annotator import CLASSES, PREDICTED, Annotator
from application import slicer
from images import AFFINES, placed
from lib.core.labels import LabelScheme
from lib.server.web.users import Users
from project import APP
from serving import SHAPE, Server, paint, parts, publish, stored, write_image

SCRIPT = APP / "in_slicer" / "sparse_unet3d_shortcuts.py"
PLACES = {**AFFINES, "micrometres": placed(0.0002, -0.0003, 0.0009, turned=(20, -35, 50))}
VIEWS = ("Red", "Yellow", "Green")


@pytest.fixture
def open_image(
    open_slicer: Callable[..., Annotator], serve: Callable[..., None], tmp_path: Path
) -> Callable[..., Annotator]:
    """Open an image with a given affine in 3D Slicer, with the shortcuts."""

    def start(place: str = "RAS", shape: tuple[int, ...] = SHAPE) -> Annotator:
        serve(write_image(tmp_path / "image.nii.gz", shape, PLACES[place], seed=1))
        annotator = open_slicer(autoRunSegmentationOnNextSample=False)
        annotator.load_script(SCRIPT)
        annotator.next_sample()
        return annotator

    return start


def middle_of(affine: np.ndarray, axis: int, index: int) -> np.ndarray:
    """Position of the middle of a slice of the file, RAS in mm."""
    voxel = (np.array(SHAPE) - 1) / 2
    voxel[axis] = index
    return nibabel.affines.apply_affine(affine, voxel)


def masks(annotator: Annotator) -> dict[str, np.ndarray]:
    return {name: annotator.painted(name) for name in annotator.segments()}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, mask in found.items():
        np.testing.assert_array_equal(mask, expected[name], err_msg=name)


def message(annotator: Annotator) -> str:
    """The only error message, without further details."""
    (error,) = annotator.errors
    assert error.details == ""
    assert "Traceback" not in error.text
    return error.text


# A


@pytest.mark.slow
@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("place", PLACES)
def test_the_prediction_is_accepted_in_one_slice(
    open_image: Callable[..., Annotator], studies: Path, place: str, axis: int
) -> None:
    annotator = open_image(place)
    annotator.paint_annotation(paint())
    annotator.run()
    before, index = masks(annotator), 8
    # Between two slices, Slicer shows the nearer one.
    annotator.turn("Green", axis, middle_of(PLACES[place], axis, index + (0.4, -0.4, 0.4)[axis]))
    annotator.point_at("Green")
    annotator.press_key("A")

    inside = np.zeros(SHAPE, bool)
    np.moveaxis(inside, axis, 0)[index] = True
    prediction = np.where(stored(studies, "prediction", "image") == 0, 3, stored(studies, "prediction", "image"))
    expected = np.where(inside & (paint() == 0), prediction, paint())
    assert len(np.unique(prediction[inside & (paint() == 0)])) == 3
    assert (paint()[inside] > 0).any()
    assert annotator.errors == []
    np.testing.assert_array_equal(annotator.annotation(), expected)
    # The model's own segments are as before, to be accepted again after Undo.
    after = masks(annotator)
    assert_same({name: after[name] for name in PREDICTED}, {name: before[name] for name in PREDICTED})
    counts = [np.count_nonzero((expected == value) & (paint() == 0)) for value in (1, 2, 3)]
    for name, count in zip(CLASSES, counts, strict=True):
        assert f"{count} voxels of {name}" in annotator.status
    annotator.submit()
    assert (stored(studies, "final", "image") == expected).all()

    annotator.undo()
    assert_same(masks(annotator), before)
    annotator.press_key("A")
    assert_same(masks(annotator), after)


@pytest.mark.usefixtures("published")
def test_the_view_under_the_mouse_counts_and_then_the_one_used_last(
    open_image: Callable[..., Annotator], studies: Path
) -> None:
    annotator = open_image()
    annotator.run()
    annotator.press_key("A")
    assert "Move the mouse over the slice" in message(annotator)
    annotator.dialogs.clear()

    places = {"Red": (2, 3), "Yellow": (0, 9), "Green": (1, 12)}
    for view, (axis, index) in places.items():
        annotator.turn(view, axis, middle_of(PLACES["RAS"], axis, index))
    prediction = np.where(stored(studies, "prediction", "image") == 0, 3, stored(studies, "prediction", "image"))
    expected = np.zeros(SHAPE, np.uint8)
    for view, (axis, index) in places.items():
        annotator.point_at(view)
        annotator.press_key("A")
        np.moveaxis(expected, axis, 0)[index] = np.moveaxis(prediction, axis, 0)[index]
        np.testing.assert_array_equal(annotator.annotation(), expected)
    annotator.point_at(None)
    annotator.turn("Green", 1, middle_of(PLACES["RAS"], 1, 13))
    annotator.press_key("A")
    expected[:, 13] = prediction[:, 13]
    np.testing.assert_array_equal(annotator.annotation(), expected)
    np.testing.assert_array_equal(annotator.prediction(), stored(studies, "prediction", "image"))
    assert annotator.errors == []


@pytest.mark.usefixtures("published")
def test_the_module_segment_editor_takes_it_back_too(open_image: Callable[..., Annotator]) -> None:
    annotator = open_image()
    editor = annotator.open_segment_editor()
    annotator.run()
    before = masks(annotator)
    annotator.turn("Red", 2, middle_of(PLACES["RAS"], 2, 3))
    annotator.point_at("Red")
    annotator.press_key("A")
    assert annotator.annotation().any()
    editor.undo()
    assert_same(masks(annotator), before)


@pytest.mark.usefixtures("published")
def test_nothing_is_accepted_where_it_is_unclear_what(open_image: Callable[..., Annotator]) -> None:
    annotator = open_image("oblique")
    annotator.point_at("Red")

    def refused() -> str:
        before = masks(annotator)
        annotator.press_key("A")
        assert_same(masks(annotator), before)
        text = message(annotator)
        annotator.dialogs.clear()
        return text

    assert "press Run first" in refused()
    annotator.run()
    assert "The Red view cuts through several slices" in refused()
    annotator.turn("Red", 2, middle_of(PLACES["oblique"], 2, SHAPE[2] - 0.4))
    assert "The Red view shows no slice of this volume" in refused()
    annotator.turn("Red", 2, middle_of(PLACES["oblique"], 2, 3))
    annotator.choose_effect("Draw")
    assert "end its outline by Enter" in refused()
    annotator.choose_effect("Paint")
    annotator.rename_segment("tubule", "tube")
    assert "The segment 'tubule' is missing" in refused()
    annotator.rename_segment("tube", "tubule")
    annotator.press_key("A")
    assert "Every voxel of this slice is painted already" in refused()


# N


def suggestions(server: Server, folder: Path) -> list[dict[str, Any]]:
    """What the server suggests to the shortcut."""
    folder.mkdir()
    return parts(server.infer("image", "next_slices", slices=6), folder)[0]["slices"]


def on_top(annotator: Annotator) -> str:
    """Name of the view at the top of the window; the others are below it."""
    layout = annotator.scene.GetFirstNodeByClass("vtkMRMLLayoutNode").GetLayoutRootElement()
    views: list[str] = []
    parts_left = [layout]
    while parts_left:
        part = parts_left.pop(0)
        if part.GetName() == "view":
            views.append(part.GetAttribute("singletontag"))
        parts_left = [part.GetNestedElement(n) for n in range(part.GetNumberOfNestedElements())] + parts_left
    assert sorted(views) == sorted(VIEWS)
    return views[0]


def assert_shows(annotator: Annotator, place: str, suggested: dict[str, Any]) -> None:
    """The view on top shows this slice of the file, and the other two show slices across the other axes."""
    directions = PLACES[place][:3, :3] / np.linalg.norm(PLACES[place][:3, :3], axis=0)
    across = {}
    for name in VIEWS:
        plane = slicer.util.arrayFromVTKMatrix(annotator.view(name).GetSliceToRAS())
        along = np.abs(plane[:3, 2] @ directions)
        assert along.max() == pytest.approx(1, abs=1e-5)
        across[name] = int(along.argmax())
    assert sorted(across.values()) == [0, 1, 2]
    top = on_top(annotator)
    assert across[top] == suggested["axis"]
    plane = slicer.util.arrayFromVTKMatrix(annotator.view(top).GetSliceToRAS())
    voxel = np.linalg.inv(PLACES[place]) @ plane[:, 3]
    assert voxel[suggested["axis"]] == pytest.approx(suggested["index"], abs=0.01)
    assert suggested["name"] in annotator.status


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("place", PLACES)
def test_the_views_jump_to_one_suggested_slice_after_another(
    open_image: Callable[..., Annotator], server: Server, tmp_path: Path, place: str
) -> None:
    annotator = open_image(place)
    annotator.paint_annotation(paint())
    annotator.submit()
    # Two views show slices across the same axis.
    annotator.view("Green").SetOrientation("Axial")
    annotator.press_key("N")
    suggested = suggestions(server, tmp_path / "first")
    assert len(suggested) == 6
    assert {one["axis"] for one in suggested} == {0, 1, 2}
    for one in [*suggested[1:], suggested[0], suggested[1]]:
        annotator.press_key("N")
        assert_shows(annotator, place, one)

    # New paint makes new suggestions.
    annotator.paint("outside", np.indices(SHAPE)[suggested[1]["axis"]] == suggested[1]["index"])
    annotator.submit()
    annotator.press_key("N")
    later = suggestions(server, tmp_path / "later")
    assert later != suggested
    assert_shows(annotator, place, later[0])
    assert annotator.errors == []

    # The slice is the one that A accepts, even when the mouse isn't over it.
    annotator.run()
    before = annotator.annotation()
    annotator.press_key("A")
    changed = np.argwhere(annotator.annotation() != before)
    assert (changed[:, later[0]["axis"]] == later[0]["index"]).all()
    assert len(changed)


def test_slices_are_suggested_before_there_is_a_model(open_image: Callable[..., Annotator]) -> None:
    annotator = open_image("oblique, left-handed")
    annotator.press_key("N")
    assert "there is no model yet" in annotator.status
    assert annotator.errors == []


def test_a_fully_painted_volume_has_no_next_slice(open_image: Callable[..., Annotator]) -> None:
    annotator = open_image()
    annotator.paint("outside", np.ones(SHAPE, bool))
    annotator.submit()
    annotator.press_key("N")
    assert "nothing is left to paint" in message(annotator)


# U


def overlays(annotator: Annotator) -> list[Any]:
    nodes = annotator.scene.GetNodesByClass("vtkMRMLScalarVolumeNode")
    volumes = [nodes.GetItemAsObject(n) for n in range(nodes.GetNumberOfItems())]
    return [volume for volume in volumes if volume.GetName() != annotator.volume.GetName()]


def layers(annotator: Annotator) -> list[tuple[str | None, float]]:
    nodes = [annotator.scene.GetNodeByID(f"vtkMRMLSliceCompositeNode{name}") for name in VIEWS]
    return [(node.GetForegroundVolumeID(), node.GetForegroundOpacity()) for node in nodes]


@pytest.mark.parametrize(("place", "channels"), [*((place, 1) for place in PLACES), ("oblique", 3), ("left-handed", 3)])
def test_the_uncertainty_lies_over_the_volume(
    open_image: Callable[..., Annotator], studies: Path, models: Path, place: str, channels: int
) -> None:
    torch.manual_seed(3)
    publish(models, LabelScheme(("inside", "tubule"), "outside"), channels)
    # Of three channels in this form, Slicer loses the directions.
    annotator = open_image(place, SHAPE if channels == 1 else (*SHAPE, channels))
    annotator.run()
    before = layers(annotator)
    annotator.press_key("U")
    (overlay,) = overlays(annotator)
    uncertainty = stored(studies, "uncertainty", "image")
    assert len(np.unique(uncertainty)) > 20
    np.testing.assert_array_equal(annotator.voxels(overlay), uncertainty)
    # Voxel (i, j, k) of the overlay lies on voxel (i, j, k) of the volume.
    places, expected = annotator.to_ras(overlay), annotator.to_ras(annotator.volume)
    np.testing.assert_allclose(places, expected, rtol=1e-4, atol=1e-3 * min(annotator.volume.GetSpacing()))
    assert layers(annotator) == [(overlay.GetID(), 0.5)] * 3
    assert overlay.GetDisplayNode().GetColorNode().GetName() == "Iron"

    annotator.press_key("U")
    assert overlays(annotator) == []
    assert layers(annotator) == before
    assert annotator.errors == []


@pytest.mark.usefixtures("published")
def test_views_get_back_the_layers_that_they_had(open_image: Callable[..., Annotator]) -> None:
    annotator = open_image()
    annotator.run()
    annotator.press_key("U")
    annotator.press_key("U")
    red, _, green = (annotator.scene.GetNodeByID(f"vtkMRMLSliceCompositeNode{name}") for name in VIEWS)
    red.SetForegroundVolumeID(annotator.volume.GetID())
    red.SetForegroundOpacity(0.25)
    before = layers(annotator)
    annotator.press_key("U")
    # What the person chooses meanwhile stays.
    green.SetForegroundVolumeID(annotator.volume.GetID())
    annotator.press_key("U")
    assert layers(annotator) == [*before[:2], (annotator.volume.GetID(), 0.5)]


def test_no_uncertainty_without_a_prediction(open_image: Callable[..., Annotator]) -> None:
    annotator = open_image()
    annotator.press_key("U")
    assert message(annotator) == "There is no prediction of this volume yet: press Run first, then U again."


@pytest.mark.usefixtures("published")
def test_the_uncertainty_of_an_earlier_image_is_not_shown(
    open_image: Callable[..., Annotator], studies: Path, tmp_path: Path
) -> None:
    annotator = open_image()
    annotator.run()
    file = studies / "labels/uncertainty/image.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 5, 6), np.uint8), PLACES["RAS"]), tmp_path / file.name)
    (tmp_path / file.name).replace(file)
    annotator.press_key("U")
    assert "belongs to an earlier volume" in message(annotator)
    assert overlays(annotator) == []


# All keys


@pytest.mark.parametrize("key", ["N", "A", "U"])
def test_without_a_volume_the_person_is_told_what_to_do(open_slicer: Callable[..., Annotator], key: str) -> None:
    annotator = open_slicer()
    annotator.load_script(SCRIPT)
    annotator.press_key(key)
    assert message(annotator).startswith("No volume is open")


@pytest.mark.parametrize("key", ["N", "U"])
def test_without_a_server_the_person_is_told_where_it_was_looked_for(
    open_image: Callable[..., Annotator], key: str
) -> None:
    annotator = open_image()
    annotator.ui.serverComboBox.setCurrentText("http://127.0.0.1:9")
    annotator.press_key(key)
    assert message(annotator).startswith("The server at http://127.0.0.1:9 doesn't answer")


def test_the_sentence_of_the_server_is_shown(
    open_image: Callable[..., Annotator], server: Server, studies: Path
) -> None:
    annotator = open_image()
    (studies / "image.nii.gz").unlink()
    server.wait_until(lambda: not server.client.datastore()["objects"])
    annotator.press_key("N")
    assert message(annotator) == "The server refuses: there is no image 'image' in the datastore"


@pytest.mark.parametrize("key", ["N", "U"])
def test_a_volume_that_the_server_lacks_is_named_as_such(
    open_slicer: Callable[..., Annotator], tmp_path: Path, key: str
) -> None:
    annotator = open_slicer()
    annotator.load_script(SCRIPT)
    annotator.open_file(write_image(tmp_path / "image.nii.gz"))
    annotator.press_key(key)
    assert message(annotator).startswith("The server doesn't have this volume")


@pytest.mark.usefixtures("published")
def test_keys_use_the_login_of_the_plugin(open_image: Callable[..., Annotator], studies: Path) -> None:
    annotator = open_image()
    annotator.run()
    users = Users(studies)
    users.add("anna", "a long password")
    try:
        annotator.log_in("anna", "a wrong password")
        annotator.press_key("N")
        assert message(annotator) == "The server refuses: log in first: name and password"
        annotator.dialogs.clear()
        annotator.log_in("anna", "a long password")
        annotator.press_key("N")
        annotator.press_key("U")
        assert len(overlays(annotator)) == 1
        assert annotator.errors == []
    finally:
        (studies / "users.json").unlink()


@pytest.mark.parametrize("key", ["N", "A", "U"])
def test_loaded_twice_each_key_acts_once(open_slicer: Callable[..., Annotator], key: str) -> None:
    annotator = open_slicer()
    annotator.load_script(SCRIPT)
    annotator.load_script(SCRIPT)
    annotator.press_key(key)
    assert len(annotator.errors) == 1


def test_slicer_can_read_the_script() -> None:
    """In the encoding of any computer, by Python 3.9, with what Slicer brings."""
    source = SCRIPT.read_text(encoding="ascii")
    tree = ast.parse(source, feature_version=(3, 9))
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    standard = {"__future__", "collections.abc", "itertools", "json", "math", "os", "re", "typing"}
    assert imported - standard == {"numpy", "numpy.typing", "qt", "slicer", "vtk", "vtk.util.numpy_support"}
