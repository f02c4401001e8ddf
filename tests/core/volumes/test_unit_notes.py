"""What files say of the unit of their lengths."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from lib.core.volumes.reading import read_geometry


@pytest.mark.parametrize(("unit", "noted"), [("mm", False), ("micron", False), ("unknown", True)])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti1Pair])
def test_nifti(kind, unit: str, noted: bool, tmp_path: Path) -> None:
    image = kind(np.zeros((4, 5, 6), np.int16), np.eye(4))
    # The unit of time is in the same byte.
    image.header.set_xyzt_units(unit, "sec")
    path = tmp_path / ("a.nii" if kind is nibabel.Nifti1Image else "a.hdr")
    nibabel.save(image, path)
    assert bool(read_geometry(path).unit_note) == noted


def test_analyze(tmp_path: Path) -> None:
    nibabel.save(nibabel.AnalyzeImage(np.zeros((4, 5, 6), np.int16), np.eye(4)), tmp_path / "a.hdr")
    assert "states no unit of length" in read_geometry(tmp_path / "a.hdr").unit_note


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "states no unit of length; its numbers count as millimetres"),
        ('space units: "mm" "mm" "mm"\n', ""),
        ('space units: "um" "um" "um"\n', "states lengths in um um um, which count as millimetres"),
    ],
)
def test_nrrd(line: str, words: str, tmp_path: Path) -> None:
    header = (
        "NRRD0004\ntype: uint8\ndimension: 3\nspace: left-posterior-superior\nsizes: 2 3 4\n"
        f"space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\nencoding: raw\n{line}\n"
    )
    (tmp_path / "a.nrrd").write_bytes(header.encode() + bytes(24))
    note = read_geometry(tmp_path / "a.nrrd").unit_note
    assert words in note
    assert bool(note) == bool(words)


def test_meta_image(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6), np.uint8)), str(tmp_path / "a.mha"))
    assert "states no unit of length" in read_geometry(tmp_path / "a.mha").unit_note
