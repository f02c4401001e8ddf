"""A prediction lies where 3D Slicer shows the image, whatever position the image's header gives."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from lib.core.errors import InputError
from lib.server.conf import Conf
from lib.server.store.datastore import AnnotationStore
from lib.server.tasks.infer import Segmentation
from serving import SHAPE, publish

UNIT_SFORM = ([1, 0, 0, -55], [0, 1, 0, -55], [0, 0, 1, -37])


def write_nifti(path: Path, **fields: Any) -> None:
    """Write noise with exactly these header fields; ``srow`` are the three rows of the sform."""
    header = nibabel.Nifti1Image(np.zeros(SHAPE, np.int16), None).header
    header["srow_x"], header["srow_y"], header["srow_z"] = fields.pop("srow", np.zeros((3, 4)))
    for key, value in fields.items():
        if key == "pixdim":
            header[key][: len(value)] = value
        else:
            header[key] = value
    header["magic"], header["vox_offset"], header["scl_slope"], header["scl_inter"] = b"n+1", 352, 1, 0
    voxels = np.random.default_rng(0).integers(0, 1000, SHAPE).astype("<i2")
    path.write_bytes(header.binaryblock + b"\0" * 4 + voxels.tobytes(order="F"))


def place(path: str | Path) -> tuple[float, ...]:
    """Size, spacing, origin and directions as ITK reads them."""
    image = sitk.ReadImage(str(path))
    return (*image.GetSize(), *image.GetSpacing(), *image.GetOrigin(), *image.GetDirection())


@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz"])
@pytest.mark.parametrize(
    "fields",
    [
        {"pixdim": [1, 0.866, 0.866, 0.796], "sform_code": 1, "srow": UNIT_SFORM},
        {"pixdim": [-1, 0.5, 0.7, 2], "qform_code": 1, "qoffset_x": 3, "quatern_b": 0.5},
        {"pixdim": [1, 2, 3, 4]},
        {"pixdim": [1, 1, 1, 2], "sform_code": 2, "srow": ([0, -1, 0, 4], [1, 0, 0, 5], [0, 0, 2, 6])},
    ],
)
def test_a_prediction_lies_over_its_image(tmp_path: Path, fields: dict[str, Any], ending: str) -> None:
    conf = Conf.parse({"width": "2"}, str(tmp_path))
    image = tmp_path / "a.nii"
    write_nifti(image, **fields)
    store = AnnotationStore(str(tmp_path), conf.scheme)
    store.serve(watch=False)
    publish(tmp_path / "models", conf.scheme)
    try:
        result, _ = Segmentation(conf, store)({"image": str(image), "image_id": "a", "result_extension": ending})
    except InputError:
        # Images that Slicer can't open may be refused.
        with pytest.raises(RuntimeError):
            sitk.ReadImage(str(image))
        return
    np.testing.assert_allclose(place(result), place(image), atol=1e-3)
    Path(result).unlink()
