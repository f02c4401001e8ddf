"""Images whose header was corrected, or that were replaced, after somebody painted them."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from lib.core.errors import InputError
from serving import NAMED, paint, stored, write_label
from stores import open_store


def test_a_header_corrected_after_painting_is_reported_and_paint_can_be_restored(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    image = nibabel.load(studies / "a.nii.gz")
    corrected = np.diag([0.5, 0.5, 1.3, 1.0])
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), corrected), studies / "a.nii.gz")
    store.refresh()
    offer = r"same voxels as version 1 .*voxel size 0\.5 × 0\.5 × 1\.3 mm.*annotations restore a 1 --by-voxel --studies"
    with pytest.raises(InputError, match=offer):
        store.check_image("a")
    assert store.is_unreadable("a")
    with pytest.raises(InputError, match=offer):
        store.restore("a", 1, by_voxel=False)
    info = store.restore("a", 1, by_voxel=True)
    assert info["warnings"] == ["version 1 was painted in another geometry and was copied voxel by voxel"]
    assert (stored(studies, "final") == paint()).all()
    assert np.allclose(nibabel.load(studies / "labels/original/a.nii.gz").affine, corrected)
    store.check_image("a")
    assert not store.is_unreadable("a")
    with pytest.raises(InputError, match="version 2 is the current one already"):
        store.restore("a", 2)


def test_by_voxel_keeps_the_voxels_where_only_directions_were_corrected(studies: Path, tmp_path: Path) -> None:
    """A mirrored image fills the same box, so paint could also be placed by its position, but on the wrong side."""
    store = open_store(studies)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    image = nibabel.load(studies / "a.nii.gz")
    mirrored = image.affine @ np.diag([-1, 1, 1, 1])
    mirrored[:3, 3] = image.affine[:3] @ [image.shape[0] - 1, 0, 0, 1]
    write_label(studies / "a.nii.gz", np.asarray(image.dataobj), mirrored)
    store.refresh()
    store.restore("a", 1, by_voxel=True)
    assert (stored(studies, "final") == paint()).all()
    assert not (paint() == paint()[::-1]).all()


def test_an_image_of_another_shape_can_be_painted_again(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    store.save_label("a", str(write_label(tmp_path / "label.nii.gz", paint())), "final", NAMED)
    write_label(studies / "a.nii.gz", np.ones((20, 18, 13), np.uint8))
    store.check_image("a")
    with pytest.raises(InputError, match="the image was replaced"):
        store.restore("a", 1)
