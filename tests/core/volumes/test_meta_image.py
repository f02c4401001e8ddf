"""MetaImage files against ITK, the library that 3D Slicer reads files with, through SimpleITK."""

import numpy as np
import pytest
import SimpleITK as sitk

from lib.core.errors import InputError
from lib.core.volumes.reading import read_volume
from saved_volumes import numbers


def test_a_meta_image_does_not_reach_for_other_files(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(numbers()), str(tmp_path / "image.mhd"))
    (tmp_path / "image.mhd").rename(tmp_path / "image.mha")
    with pytest.raises(InputError, match="another file"):
        read_volume(tmp_path / "image.mha")


@pytest.mark.parametrize("flag", ["True", "T", "true"])
def test_compressed_metaimages_are_read_as_by_itk(tmp_path, flag):
    path = tmp_path / "a.mha"
    sitk.WriteImage(sitk.GetImageFromArray(numbers().T.copy()), str(path), useCompression=True)
    path.write_bytes(path.read_bytes().replace(b"CompressedData = True", b"CompressedData = " + flag.encode()))
    np.testing.assert_array_equal(read_volume(path).array[0], numbers())
