"""Paint and submit in the real plugin: the stored annotation is the paint, whatever the image and the annotator do."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from annotator import Annotator
from images import AFFINES, write_channels, write_nrrd
from serving import SEGMENTS, SHAPE, paint, stored, write_image

pytestmark = pytest.mark.slow


def annotated_slices(studies: Path) -> list[list[int]]:
    """Return the annotated slices that the server detected in the newest annotation, by axis of the file."""
    info = json.loads((studies / "labels/final/image.json").read_text())
    return info["statistics"]["annotated_slices"]


def paint_submit_and_reopen(open_slicer: Callable[..., Annotator], studies: Path, affine: NDArray[np.float64]) -> None:
    annotator = open_slicer()
    assert annotator.next_sample() == "image"
    assert annotator.segments() == SEGMENTS
    annotator.paint_annotation(paint())
    assert annotator.submit()["warnings"] == []
    assert annotated_slices(studies) == [[6, 10], [5, 9], [4, 6]]
    for tag in ("final", "version_1"):
        assert (stored(studies, tag, "image") == paint()).all()
        found = nibabel.load(studies / f"labels/{tag}/image.nii.gz").affine
        assert np.allclose(found, affine, atol=1e-4 * np.linalg.norm(affine[:3, :3], axis=0).min())
    later = open_slicer()
    assert later.next_sample() == "image"
    assert later.segments() == SEGMENTS
    assert (later.annotation() == paint()).all()
    for session in (annotator, later):
        assert session.errors == []


def test_a_three_channel_volume_is_opened(
    open_slicer: Callable[..., Annotator], serve: Callable[..., None], tmp_path: Path
) -> None:
    serve(write_image(tmp_path / "image.nii.gz", (*SHAPE, 3)))
    annotator = open_slicer()
    assert annotator.next_sample() == "image"
    assert annotator.segments() == SEGMENTS
    assert annotator.dialogs == []
    assert annotator.volume.GetName() == "image.nii.gz"
    assert not any(annotator.painted(name).any() for name in annotator.segments())


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd"])
@pytest.mark.parametrize("place", AFFINES)
def test_paint_on_one_channel(
    open_slicer: Callable[..., Annotator],
    serve: Callable[..., None],
    studies: Path,
    tmp_path: Path,
    place: str,
    ending: str,
) -> None:
    path = tmp_path / f"image{ending}"
    if ending == ".nrrd":
        write_nrrd(path, np.random.default_rng(7).integers(0, 900, SHAPE).astype(np.int16), AFFINES[place])
    else:
        write_image(path, affine=AFFINES[place])
    serve(path)
    paint_submit_and_reopen(open_slicer, studies, AFFINES[place])


@pytest.mark.parametrize(
    "form", ["channels last", "5-D", "5-D, vector intent", "RGB24", "vector NRRD", "a file for each"]
)
@pytest.mark.parametrize("place", ["RAS", "LPS", "left-handed", "oblique", "oblique, left-handed"])
def test_paint_on_several_channels(
    open_slicer: Callable[..., Annotator],
    serve: Callable[..., None],
    studies: Path,
    tmp_path: Path,
    place: str,
    form: str,
) -> None:
    serve(*write_channels(form, tmp_path / "image", AFFINES[place]))
    paint_submit_and_reopen(open_slicer, studies, AFFINES[place])


# Changes to the list of segments


@pytest.fixture
def annotator(open_slicer: Callable[..., Annotator], serve: Callable[..., None], tmp_path: Path) -> Annotator:
    """An annotator who has opened an image that Slicer mirrors."""
    serve(write_image(tmp_path / "image.nii.gz", affine=AFFINES["left-handed"]))
    annotator = open_slicer()
    assert annotator.next_sample() == "image"
    return annotator


def test_segments_deleted_added_and_reordered(annotator: Annotator, studies: Path) -> None:
    annotator.delete_segment("tubule (predicted)")
    annotator.delete_segment("inside")
    annotator.add_segment("inside")
    # The plugin drops a segment of this name, so the numbers that it sends with the names aren't the voxels' values.
    annotator.add_segment("background")
    annotator.move_segment("background", 0)
    annotator.move_segment("outside", 1)
    assert annotator.segments() == ["background", "outside", "inside (predicted)", "annotate here", "tubule", "inside"]
    annotator.paint_annotation(paint())
    annotator.paint("background", np.indices(SHAPE).sum(axis=0) == 0)
    assert annotator.submit()["warnings"] == []
    expected = paint()
    expected[0, 0, 0] = 0
    assert (stored(studies, "final", "image") == expected).all()
    assert annotator.errors == []


def test_an_unknown_painted_segment_is_refused_by_name(annotator: Annotator, studies: Path) -> None:
    annotator.paint_annotation(paint())
    annotator.rename_segment("tubule", "nucleus")
    assert annotator.submit() == {}
    (refusal,) = annotator.errors
    assert refusal.kind == "error"
    for word in ("'nucleus'", "inside, tubule, outside", "rename"):
        assert word in refusal.text
    assert not list(studies.glob("labels/*/image.*"))
    # The paint is where it was, and is accepted under the right name.
    annotator.rename_segment("nucleus", "tubule")
    assert (annotator.annotation() == paint()).all()
    assert annotator.submit()["version"] == 1
    assert (stored(studies, "final", "image") == paint()).all()


def test_an_unknown_empty_segment_is_ignored_with_a_warning(annotator: Annotator, studies: Path) -> None:
    annotator.paint_annotation(paint())
    annotator.add_segment("sketch")
    annotator.move_segment("sketch", 3)
    (warning,) = annotator.submit()["warnings"]
    assert "'sketch'" in warning
    assert (stored(studies, "final", "image") == paint()).all()
    assert annotator.errors == []


def test_segments_renamed_into_each_other(annotator: Annotator, studies: Path) -> None:
    annotator.paint_annotation(paint())
    for name, new in (("inside", "new"), ("tubule", "inside"), ("new", "tubule")):
        annotator.rename_segment(name, new)
    annotator.submit()
    assert (stored(studies, "final", "image") == np.array([0, 2, 1, 3])[paint()]).all()


def test_nothing_painted_is_refused(annotator: Annotator, studies: Path) -> None:
    assert annotator.submit() == {}
    (refusal,) = annotator.errors
    assert "no paint" in refusal.text
    assert not list(studies.glob("labels/*/image.*"))


@pytest.mark.parametrize("place", ["RAS", "left-handed", "oblique, left-handed"])
def test_overlapping_segments_uploaded_as_a_segmentation(
    open_slicer: Callable[..., Annotator], serve: Callable[..., None], studies: Path, tmp_path: Path, place: str
) -> None:
    serve(write_image(tmp_path / "image.nii.gz", affine=AFFINES[place]))
    annotator = open_slicer(fileExtension=".seg.nrrd", allowOverlappingSegments=True)
    annotator.next_sample()
    annotator.allow_overlap()
    annotator.paint_annotation(paint())
    # The model's segment below the paint, and over it; and a voxel that is both inside and outside.
    everywhere = np.ones(SHAPE, bool)
    annotator.paint("tubule (predicted)", everywhere)
    annotator.move_segment("tubule (predicted)", 5)
    both = np.zeros(SHAPE, bool)
    both[10, 8, 5] = True
    assert paint()[both] == 1
    annotator.paint("outside", both)
    reply = annotator.submit()
    (warning,) = reply["warnings"]
    assert "1 voxel" in warning
    assert (stored(studies, "final", "image") == np.where(both, 3, paint())).all()
    assert annotator.errors == []


# Later sessions


def test_slices_added_in_a_later_session(
    annotator: Annotator, open_slicer: Callable[..., Annotator], studies: Path
) -> None:
    annotator.paint_annotation(paint())
    annotator.submit()
    later = open_slicer()
    later.next_sample()
    added = np.zeros(SHAPE, np.uint8)
    added[[2, 14]] = 3
    added[14, 4:14, 3:9] = 2
    both = np.where(added > 0, added, paint())
    later.paint_annotation(added)
    reply = later.submit()
    assert (reply["version"], reply["warnings"]) == (2, [])
    assert annotated_slices(studies) == [[2, 6, 10, 14], [5, 9], [4, 6]]
    # Slices have Slicer's numbers, and Slicer shows this image mirrored along the last axis.
    names = [text for name, text in reply["annotated_slices"].items() if name.startswith("axis 2")]
    assert names == ["5, 7"]
    assert (stored(studies, "final", "image") == both).all()
    assert (stored(studies, "version_2", "image") == both).all()
    assert (stored(studies, "version_1", "image") == paint()).all()
    # In the same session, too, the next scene shows the submitted annotation.
    assert later.next_sample() == "image"
    assert later.segments() == SEGMENTS
    assert (later.annotation() == both).all()
    assert [dialog.kind for dialog in later.dialogs] == ["information", "question"]


def test_fewer_slices_than_before(annotator: Annotator, studies: Path) -> None:
    annotator.paint_annotation(paint())
    annotator.submit()
    gone = np.zeros(SHAPE, bool)
    gone[6] = gone[:, :, 4] = True
    fewer = np.where(gone, 0, paint())
    for name in ("inside", "tubule", "outside"):
        annotator.erase(name, gone)
    reply = annotator.submit()
    assert reply["version"] == 2
    (warning,) = reply["warnings"]
    for words in (r"axis 0 \(.*?\): 6", r"axis 2 \(.*?\): 7", "version 1 still has them"):
        assert re.search(words, warning), warning
    assert (stored(studies, "final", "image") == fewer).all()
    assert (stored(studies, "version_1", "image") == paint()).all()
    assert annotator.errors == []


def test_an_annotator_on_another_computer(
    open_slicer: Callable[..., Annotator],
    serve: Callable[..., None],
    studies: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The image's path doesn't exist there, so the image is downloaded."""
    serve(write_image(tmp_path / "image.nii.gz", affine=AFFINES["left-handed"]))
    seen_here = os.path.exists
    monkeypatch.setattr("os.path.exists", lambda path: seen_here(path) and not str(path).startswith(str(studies)))
    paint_submit_and_reopen(open_slicer, studies, AFFINES["left-handed"])
    assert (tmp_path / "slicer 0/cache/image.nii.gz").read_bytes() == (studies / "image.nii.gz").read_bytes()
