"""Segmentations that 3D Slicer's own code saved, read as submissions; Slicer's own export says what they hold."""

from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
from monailabel.transform.writer import write_seg_nrrd
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.server.store.submission import Submission, read_submission
from segmentations import SlicerScene, write_numbered

SCHEME = LabelScheme(("inside", "tubule"), "outside")
SHAPE = (9, 8, 7)
ROTATION = Rotation.from_euler("xyz", (10, -25, 70), degrees=True).as_matrix()


def affine_of(directions: object, spacing: tuple[float, ...] = (0.5, 1.25, 3.0)) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(directions) @ np.diag(spacing)
    affine[:3, 3] = (-12.5, 40.25, 7.0)
    return affine


AFFINES = {
    "RAS": affine_of(np.eye(3)),
    "LPS": affine_of(np.diag([-1, -1, 1])),
    "LAS": affine_of(np.diag([-1, 1, 1])),
    "LPI": affine_of(np.diag([-1, -1, -1])),
    "oblique": affine_of(ROTATION),
    "left-handed oblique": affine_of(ROTATION @ np.diag([1, 1, -1])),
    # The same box as Slicer assumes for images with channels last, with the axes in another order.
    "PSL": affine_of([[0, 0, -1], [-1, 0, 0], [0, 1, 0]], (2, 2, 2)),
}


def box(*bounds: tuple[int, int]) -> NDArray[np.bool_]:
    """Mark the voxels between bounds along each axis, the upper one not included."""
    mask = np.zeros(SHAPE, bool)
    mask[tuple(slice(*bound) for bound in bounds)] = True
    return mask


INSIDE, TUBULE, OUTSIDE = box((2, 5), (1, 6), (3, 4)), box((4, 7), (2, 7), (3, 5)), box((3, 6), (2, 7), (2, 5))
APART = {"inside": box((2, 4), (1, 6), (3, 4)), "tubule": box((4, 7), (2, 7), (3, 5)), "outside": None}
OVERLAPPING = {"inside": INSIDE, "tubule": TUBULE, "outside": OUTSIDE}


def read(file: Path, image: Path, label_info: object = None, scheme: LabelScheme = SCHEME) -> Submission:
    return read_submission(file, image, label_info, scheme)


def exported(scene: SlicerScene, paint: dict[str, Any]) -> NDArray[np.integer[Any]]:
    """Return the label map that Slicer exports of paint alone, in the scheme's values."""
    values = scene.on_file(scene.export(scene.paint(paint)), SHAPE)
    return np.array([0, *[SCHEME.classes.index(name) + 1 for name in paint]])[values]


@pytest.mark.parametrize("crop", [False, True], ids=["full", "cropped"])
@pytest.mark.parametrize("paint", [APART, OVERLAPPING], ids=["apart", "overlapping"])
@pytest.mark.parametrize("kind", [".nii.gz", ".nrrd", "channels last"])
@pytest.mark.parametrize("name", AFFINES)
def test_paint_is_read_voxel_by_voxel(tmp_path: Path, name: str, kind: str, paint: dict[str, Any], crop: bool) -> None:
    shape = (*SHAPE, 2) if kind == "channels last" else SHAPE
    image = write_numbered(tmp_path / f"image{'.nii' if len(shape) == 4 else kind}", AFFINES[name], shape)
    scene = SlicerScene(image)
    node = scene.paint({"inside (predicted)": None, **paint})
    file = scene.save(node, tmp_path / "label.seg.nrrd", crop)

    layers, _ = nrrd.read(str(file))
    assert layers.ndim == (4 if paint is OVERLAPPING else 3)
    assert (layers.shape[-3:] == SHAPE) is not crop
    submission = read(file, image)
    assert submission.annotation.dtype == np.uint8
    assert (submission.annotation == exported(scene, paint)).all()
    assert np.allclose(submission.affine, AFFINES[name], atol=1e-5)


@pytest.mark.parametrize("crop", [False, True], ids=["full", "cropped"])
def test_the_later_of_two_overlapping_classes_counts_with_a_warning(tmp_path: Path, crop: bool) -> None:
    image = write_numbered(tmp_path / "image.nii.gz", AFFINES["LAS"], SHAPE)
    scene = SlicerScene(image)
    for order in (("inside", "tubule", "outside"), ("outside", "tubule", "inside")):
        paint = {name: OVERLAPPING[name] for name in order}
        submission = read(scene.save(scene.paint(paint), tmp_path / "label.seg.nrrd", crop), image)
        expected, several = np.zeros(SHAPE, int), 0
        for voxel in np.ndindex(SHAPE):
            painted = [name for name in order if paint[name][voxel]]
            expected[voxel] = SCHEME.classes.index(painted[-1]) + 1 if painted else 0
            several += len(painted) > 1
        assert (submission.annotation == expected).all()
        assert (exported(scene, paint) == expected).all()
        (warning,) = submission.warnings
        assert warning.startswith(f"{several} voxels are painted as more than one class")


@pytest.mark.parametrize("place", ["before", "after"])
def test_the_models_segments_never_count(tmp_path: Path, place: str) -> None:
    image = write_numbered(tmp_path / "image.nii.gz", AFFINES["oblique"], SHAPE)
    scene = SlicerScene(image)
    predicted = {"inside (predicted)": box((0, 9), (0, 8), (3, 4)), "tubule (predicted)": box((0, 9), (4, 5), (0, 7))}
    both = {**predicted, **APART} if place == "before" else {**APART, **predicted}
    submission = read(scene.save(scene.paint(both), tmp_path / "label.seg.nrrd"), image)
    assert (submission.annotation == exported(scene, APART)).all()
    assert submission.warnings == []
    with pytest.raises(InputError, match="no paint"):
        read(scene.save(scene.paint(predicted), tmp_path / "label.seg.nrrd"), image)


def test_one_painted_voxel(tmp_path: Path) -> None:
    image = write_numbered(tmp_path / "image.nii.gz", AFFINES["left-handed oblique"], SHAPE)
    scene = SlicerScene(image)
    voxel = box((8, 9), (0, 1), (6, 7))
    file = scene.save(scene.paint({"tubule": voxel}), tmp_path / "label.seg.nrrd", crop=True)
    assert nrrd.read(str(file))[0].shape == (1, 1, 1)
    assert (read(file, image).annotation == 2 * voxel).all()


def test_segments_deleted_added_reordered_renamed(tmp_path: Path) -> None:
    image = write_numbered(tmp_path / "image.nii.gz", AFFINES["RAS"], SHAPE)
    scene = SlicerScene(image)
    node = scene.paint({"tubule (predicted)": TUBULE, "inside": INSIDE, "nucleus": TUBULE, "outside": None})
    segmentation = node.GetSegmentation()
    with pytest.raises(InputError, match="'nucleus' is none of the server's classes"):
        read(scene.save(node, tmp_path / "label.seg.nrrd"), image)
    segmentation.GetSegment(segmentation.GetSegmentIdBySegmentName("nucleus")).SetName("tubule")
    segmentation.RemoveSegment(segmentation.GetSegmentIdBySegmentName("tubule (predicted)"))
    segmentation.SetSegmentIndex(segmentation.GetSegmentIdBySegmentName("inside"), 2)
    for name in ("membrane", "background", "foreground_scribbles"):
        segmentation.AddEmptySegment("", name)
    submission = read(scene.save(node, tmp_path / "label.seg.nrrd"), image)
    assert (submission.annotation == np.where(INSIDE, 1, 2 * TUBULE)).all()
    assert len(submission.warnings) == 2
    assert submission.warnings[0].startswith("the empty segment 'membrane' was ignored")
    assert "more than one class" in submission.warnings[1]


def test_names_beyond_ascii(tmp_path: Path) -> None:
    scheme = LabelScheme(("Röhre", "管", r"a\b"), "außen")
    image = write_numbered(tmp_path / "image.nii.gz", AFFINES["RAS"], SHAPE)
    scene = SlicerScene(image)
    paint = {name: box((i, i + 1), (0, 8), (0, 7)) for i, name in enumerate(scheme.classes)}
    submission = read(scene.save(scene.paint(paint), tmp_path / "label.seg.nrrd"), image, scheme=scheme)
    assert submission.annotation[:5, 0, 0].tolist() == [1, 2, 3, 4, 0]


@pytest.mark.parametrize("paint", [{"inside": None, "tubule": None}, {}], ids=["empty", "no segments"])
def test_without_paint(tmp_path: Path, paint: dict[str, Any]) -> None:
    image = write_numbered(tmp_path / "image.nii.gz", AFFINES["oblique"], SHAPE)
    scene = SlicerScene(image)
    with pytest.raises(InputError, match="no paint of inside, tubule, outside"):
        read(scene.save(scene.paint(paint), tmp_path / "label.seg.nrrd"), image)


@pytest.mark.parametrize("ending", [".seg.nrrd", ".nrrd", ".nii.gz", ""])
def test_a_segmentation_is_recognised_by_its_content(tmp_path: Path, ending: str) -> None:
    image = write_numbered(tmp_path / "image.nii.gz", AFFINES["LAS"], SHAPE)
    scene = SlicerScene(image)
    saved = scene.save(scene.paint(OVERLAPPING), tmp_path / "label.seg.nrrd", crop=True)
    file = saved.rename(tmp_path / f"upload{ending}")
    names = [{"name": name} for name in ("outside", "tubule", "inside")]
    assert (read(file, image, names).annotation == exported(scene, OVERLAPPING)).all()


def test_a_label_map_may_be_called_segmentation(tmp_path: Path) -> None:
    """The plugin sends label maps with the ending .seg.nrrd if segments may not overlap."""
    image = write_numbered(tmp_path / "image.nii.gz", AFFINES["LPI"], SHAPE)
    scene = SlicerScene(image)
    paint = {"inside (predicted)": OUTSIDE, "tubule": TUBULE, "inside": INSIDE}
    file = scene.save_label_map(scene.export(scene.paint(paint)), tmp_path / "label.seg.nrrd")
    submission = read(file, image, [{"name": name} for name in paint])
    assert (submission.annotation == exported(scene, {"tubule": TUBULE, "inside": INSIDE})).all()


def test_one_layer_for_each_segment(tmp_path: Path) -> None:
    """Old versions of Slicer, without shared layers, and other software save segmentations like this."""
    image = write_numbered(tmp_path / "image.nii.gz", np.diag([2.0, 2, 2, 1]), SHAPE)
    file = tmp_path / "label.seg.nrrd"
    masks = np.stack([OUTSIDE, INSIDE]).astype(np.uint8)
    # The writer transposes its array.
    write_seg_nrrd(masks.transpose(), str(file), np.uint8, np.diag([2.0, 2, 2, 1]), ["outside", "inside"], None, "F")
    assert (read(file, image).annotation == np.where(INSIDE, 1, 3 * OUTSIDE)).all()
    write_seg_nrrd(masks.transpose(), str(file), np.float32, np.diag([2.0, 2, 2, 1]), ["outside", "inside"], None, "F")
    with pytest.raises(InputError, match=r"label\.seg\.nrrd: values of type float32; expected integers"):
        read(file, image)


# Where the segmentation isn't on the image


def test_paint_beyond_the_image_is_left_out_with_a_warning(tmp_path: Path) -> None:
    larger = write_numbered(tmp_path / "larger.nii.gz", AFFINES["left-handed oblique"], SHAPE)
    image = tmp_path / "image.nii.gz"
    nibabel.save(nibabel.load(larger).slicer[1:8, 2:7, 4:9], image)
    scene = SlicerScene(larger)
    submission = read(scene.save(scene.paint(OVERLAPPING), tmp_path / "label.seg.nrrd"), image)
    expected = exported(scene, OVERLAPPING)
    assert (submission.annotation == expected[1:8, 2:7, 4:9]).all()
    beyond = np.count_nonzero(expected) - np.count_nonzero(submission.annotation)
    assert submission.warnings[-1].startswith(f"{beyond} painted voxels lie outside the image")

    nibabel.save(nibabel.load(larger).slicer[:, :, 5:], image)
    cropped = scene.save(scene.paint(OVERLAPPING), tmp_path / "label.seg.nrrd", crop=True)
    with pytest.raises(InputError, match="does not lie on"):
        read(cropped, image)


@pytest.mark.parametrize("case", ["between voxels", "finer", "rotated", "where Slicer misreads it, turned"])
@pytest.mark.parametrize("kind", [".nrrd", "channels last"])
def test_voxels_of_another_lattice_are_refused_with_both_described(tmp_path: Path, case: str, kind: str) -> None:
    affine = AFFINES["RAS"].copy()
    if case == "between voxels":
        affine[1, 3] += 0.25
    elif case == "finer":
        affine[0, 0] /= 2
    elif case == "rotated":
        affine = AFFINES["oblique"]
    else:
        affine[:2, 3] -= (8 * 0.5, 7 * 1.25)
    shape = (*SHAPE, 2) if kind == "channels last" else SHAPE
    image = write_numbered(tmp_path / f"image{'.nii' if len(shape) == 4 else kind}", AFFINES["RAS"], shape)
    scene = SlicerScene(write_numbered(tmp_path / "other.nii.gz", affine, SHAPE))
    file = scene.save(scene.paint(APART), tmp_path / "label.seg.nrrd", crop=True)
    with pytest.raises(InputError, match=r"(?s)label\.seg\.nrrd.*shape \(5, 6, 2\).*image\..*shape \(9, 8, 7\)"):
        read(file, image)


def test_a_box_in_true_places_on_an_image_that_slicer_would_misread(tmp_path: Path) -> None:
    """The paint was made on a 3-D copy of the image. Slicer flips a left-handed copy: directions as if misread."""
    for name in ("LPI", "RAS"):
        image = write_numbered(tmp_path / "image.nii", AFFINES[name], (*SHAPE, 2))
        scene = SlicerScene(write_numbered(tmp_path / "copy.nii", AFFINES[name], SHAPE))
        # The box starts at the plane that both positions have in common.
        paint = {**OVERLAPPING, "outside": box((1, 6), (2, 7), (0, 5))}
        file = scene.save(scene.paint(paint), tmp_path / "label.seg.nrrd", crop=True)
        assert (read(file, image).annotation == exported(scene, paint)).all()


# Damaged files


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"Segment1_Layer:=1", b"Segment1_Layer:=7", "'tubule' has value 1 in layer 7; .*below 3"),
        (b"Segment1_LabelValue:=1", b"Segment1_LabelValue:=0", "'tubule' has value 0"),
        (b"Segment1_LabelValue:=1", b"Segment1_LabelValue:=2", "layer 1 has voxels of value 1, which no segment has"),
        (b"Segment1_LabelValue:=1", b"Segment1_LabelValue:=x", "value 'x'"),
        (b"Segment1_Name:=", b"Segment1_Nome:=", "segment 1 has name None"),
        (b"sizes: 3", b"sizes: 4", "damaged"),
        (b"type: short", b"type: half", "damaged"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path: Path, old: bytes, new: bytes, words: str) -> None:
    image = write_numbered(tmp_path / "image.nii.gz", AFFINES["LAS"], SHAPE)
    scene = SlicerScene(image)
    file = scene.save(scene.paint(OVERLAPPING), tmp_path / "label.seg.nrrd")
    content = file.read_bytes()
    assert content.count(old) == 1
    file.write_bytes(content.replace(old, new))
    with pytest.raises(InputError, match=rf"label\.seg\.nrrd: .*{words}"):
        read(file, image)
