"""Names of slices, against the image as 3D Slicer's own reader gives it."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from lib.core.volumes.reading import read_volume
from lib.server.slicer.slice_names import SliceNames
from slicer_volumes import in_slicer

SHAPE = (5, 4, 6)
RIGHT = np.array([[0.5, 0, 0, -7], [0, 0.5, 0, 11], [0, 0, 1.25, 3], [0, 0, 0, 1]])
OBLIQUE = RIGHT.copy()
OBLIQUE[:3, :3] = np.linalg.qr([[0.48, -0.1, 0.2], [0.14, 0.46, -0.3], [0, 0.17, 1.2]])[0] * [0.5, 0.5, 1.25]
AFFINES = {
    "right": RIGHT,
    "left-handed": RIGHT * [[-1], [1], [1], [1]],
    "downwards": RIGHT @ np.diag([1, 1, -1, 1]),
    "sagittal": RIGHT[[2, 0, 1, 3]],
    "left-handed coronal": RIGHT[[0, 2, 1, 3]],
    "oblique": OBLIQUE,
}
VIEWS = ("sagittal", "coronal", "axial")
ENDS = ("LR", "PA", "IS")


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", AFFINES)
def test_names_and_numbers_are_those_of_slicer(tmp_path: Path, name: str, channels: int) -> None:
    # One voxel is marked; Slicer says where it is.
    array = np.zeros((*SHAPE, channels)[: 3 if channels == 1 else 4], np.int16)
    array[3, 1, 4] = 9
    file = tmp_path / "image.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array, AFFINES[name]), file)
    seen, affine = in_slicer(file)
    (marked,) = np.argwhere(seen)

    by_axis = SliceNames.of(read_volume(file)).by_axis([[3], [1], [4]])
    for axis, (text, number) in enumerate(by_axis.items()):
        world = int(np.abs(affine[:3, axis]).argmax())
        start, end = ENDS[world] if affine[world, axis] > 0 else ENDS[world][::-1]
        assert text == f"axis {axis} ({start}-{end}, {VIEWS[world]})"
        assert number == str(marked[axis])


def names_of(affine: NDArray[np.float64], folder: Path) -> SliceNames:
    nibabel.save(nibabel.Nifti1Image(np.ones(SHAPE, np.int16), affine), folder / "image.nii.gz")
    return SliceNames.of(read_volume(folder / "image.nii.gz"))


def test_several_slices(tmp_path: Path) -> None:
    names = names_of(RIGHT, tmp_path)
    assert names.text([[], [], []]) == "none"
    assert names.text([[0, 1, 3], [], [0, 1, 2, 4, 5]]) == (
        "axis 0 (L-R, sagittal): 0, 1, 3; axis 2 (I-S, axial): 0-2, 4, 5"
    )
    assert list(names.by_axis([[0], [], [2]]).values()) == ["0", "none", "2"]
    turned = names_of(AFFINES["left-handed"], tmp_path)
    assert turned.text([[], [0, 1, 2, 3], [0, 2, 3, 4]]) == "axis 1 (P-A, coronal): 0-3; axis 2 (S-I, axial): 1-3, 5"


@pytest.mark.parametrize("name", ["right", "left-handed"])
def test_json(tmp_path: Path, name: str) -> None:
    names = names_of(AFFINES[name], tmp_path)
    assert SliceNames.from_json(names.to_json()) == names
