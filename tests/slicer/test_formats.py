"""Images that Slicer can't open, or not with their voxel size: paint and predictions come to the right voxels."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch
from numpy.typing import NDArray

from annotator import Annotator
from czi_files import Block, write_czi, xml
from dicom_series import write_series
from imaris_files import write_imaris
from lib.core.labels import LabelScheme
from lif_files import Series, lif
from nd2_files import nd2
from ome_zarr_files import multiscale, scale_of, translation_of, write_array, write_attributes
from serving import SEGMENTS, SHAPE, Server, paint, publish, stored

pytestmark = pytest.mark.slow

SIZE = (0.4, 0.5, 1.25)
"""Of a voxel along X, Y, Z in micrometres."""


def voxels(channels: int) -> NDArray[np.uint16]:
    """Noise with a bright block, (C, X, Y, Z)."""
    array = np.random.default_rng(1).integers(0, 60, (channels, *SHAPE)).astype(np.uint16)
    array[:, 5:15, 4:14, 3:9] += 300
    return array


def affine(unit: float = 1e-3, place: tuple[float, ...] = (0, 0, 0)) -> NDArray[np.float64]:
    """In RAS mm, where X goes to the left and Y to the back."""
    matrix = np.diag([*(unit * np.array(SIZE)), 1.0])
    matrix[:3, 3] = unit * np.array(place)
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix


def ome_tiff(path: Path, array: NDArray[np.uint16]) -> Path:
    """Write (C, X, Y, Z) as OME-TIFF."""
    metadata = {f"PhysicalSize{axis}": size for axis, size in zip("XYZ", SIZE, strict=True)}
    tifffile.imwrite(path, array.transpose(0, 3, 2, 1), ome=True, metadata={"axes": "CZYX", **metadata})
    return path


def ome_zarr(path: Path, array: NDArray[np.uint16], version: str) -> Path:
    """Write (C, X, Y, Z) as OME-Zarr with two levels."""
    x, y, z = SIZE
    steps = [
        [scale_of(1, z, y, x), translation_of(0, 30, 20, 10)],
        [scale_of(1, z, 2 * y, 2 * x), translation_of(0, 30, 20 + y / 2, 10 + x / 2)],
    ]
    write_attributes(path, {"multiscales": [multiscale("czyx", steps, version)]}, version)
    for level, part in enumerate((array, array[:, ::2, ::2])):
        write_array(path / str(level), part.transpose(0, 3, 2, 1), "czyx", version)
    return path


def write(form: str, folder: Path) -> tuple[Path, int, NDArray[np.float64]]:
    """Write an image; return its path, its channels, and the affine that the format states."""
    channels = 2 if "2 channels" in form else 1
    array = voxels(channels)
    if form.startswith("OME-TIFF"):
        return ome_tiff(folder / "image.tif", array), channels, affine()
    if form.startswith("OME-Zarr"):
        path = ome_zarr(folder / "image.zarr", array, form.split()[1])
        return path, channels, affine(place=(10, 20, 30))
    if form.startswith("left-handed"):
        # The axes of the image run to the left, to the front and upwards.
        image = sitk.GetImageFromArray(array[0].T)
        image.SetSpacing(SIZE)
        image.SetDirection(np.diag([1.0, -1.0, 1.0]).ravel().tolist())
        path = folder / f"image{form.removeprefix('left-handed ')}"
        sitk.WriteImage(image, str(path))
        return path, 1, np.diag([-SIZE[0], SIZE[1], SIZE[2], 1.0])
    if form == "DICOM":
        path = write_series(folder / "image", array[0], origin=(10, 20, 30), spacing=(SIZE[1], SIZE[0]))
        place = np.diag([-SIZE[0], -SIZE[1], 2.0, 1.0])
        place[:3, 3] = (-10, -20, 30)
        return path, 1, place
    if form == "LIF":
        (folder / "image.lif").write_bytes(lif(Series("a", array.transpose(0, 3, 2, 1), "czyx")))
        return folder / "image.lif", channels, affine()
    if form.startswith("ND2"):
        (folder / "image.nd2").write_bytes(nd2(array.T, size=(SIZE[0], SIZE[0], SIZE[2])))
        return folder / "image.nd2", channels, affine() @ np.diag([1, SIZE[0] / SIZE[1], 1, 1])
    if form.startswith("CZI"):
        blocks = [Block(array[c, :, :, z].T, {"C": c, "Z": z}) for c, z in np.ndindex(channels, SHAPE[2])]
        return write_czi(folder / "image.czi", blocks, xml(*SIZE)), channels, affine()
    if form == "Imaris":
        path = write_imaris(folder / "image.ims", [array[None]], high=tuple(np.multiply(SIZE, SHAPE)))
        return path, channels, affine(place=tuple(np.array(SIZE) / 2))
    if form == "ImageJ":
        path, resolution = folder / "image.tif", (1 / SIZE[0], 1 / SIZE[1])
        metadata: dict[str, Any] = {"spacing": SIZE[2], "unit": "um", "axes": "ZYX"}
        tifffile.imwrite(path, array[0].transpose(2, 1, 0), imagej=True, resolution=resolution, metadata=metadata)
        return path, 1, affine()
    tifffile.imwrite(folder / "image.tif", array[0].transpose(2, 1, 0), metadata=None)
    return folder / "image.tif", 1, np.diag([-1.0, -1.0, 1.0, 1.0])


needs_zarr = pytest.mark.skipif(sys.version_info < (3, 11), reason="zarr 3 needs Python 3.11")


@pytest.mark.parametrize(
    "form",
    [
        "OME-TIFF",
        "OME-TIFF, 2 channels",
        "ImageJ",
        "TIFF without size",
        pytest.param("OME-Zarr 0.4", marks=needs_zarr),
        pytest.param("OME-Zarr 0.5 2 channels", marks=needs_zarr),
        "CZI, 2 channels",
        "Imaris",
        "left-handed .mhd",
        "left-handed .nhdr",
        "DICOM",
        "LIF",
        "ND2, 2 channels",
    ],
)
def test_paint_and_predictions(
    form: str,
    open_slicer: Callable[..., Annotator],
    serve: Callable[..., None],
    server: Server,
    studies: Path,
    models: Path,
    tmp_path: Path,
) -> None:
    path, channels, expected = write(form, tmp_path)
    torch.manual_seed(3)
    publish(models, LabelScheme(("inside", "tubule"), "outside"), channels=channels)
    for data in tmp_path.glob("*.raw"):
        data.rename(studies / data.name)
    serve(path)
    annotator = open_slicer(autoRunSegmentationOnNextSample=False)
    assert annotator.next_sample() == "image"
    assert annotator.segments() == SEGMENTS
    assert annotator.volume.GetImageData().GetNumberOfScalarComponents() == channels
    annotator.paint_annotation(paint())
    warnings = annotator.submit()["warnings"]
    assert ["doesn't say how large its voxels are" in warning for warning in warnings] == (
        [True] if form == "TIFF without size" else []
    )
    found = nibabel.load(studies / "labels/final/image.nii.gz")
    assert np.allclose(found.affine, expected, atol=1e-4 * np.abs(np.diag(expected)).min())
    assert (stored(studies, "final", "image") == paint()).all()
    annotator.run()
    assert annotator.prediction().any()
    assert (annotator.prediction() == stored(studies, "prediction", "image")).all()
    assert (annotator.annotation() == paint()).all()
    if path.suffix == ".tif":
        in_format = tifffile.imread(studies / "predictions/image.ome.tif").T
        assert (in_format == stored(studies, "prediction", "image")).all()
    if path.suffix == ".zarr":
        import zarr

        in_format = zarr.open_array(studies / "image.zarr/labels/prediction/0", mode="r")[:].T
        assert (in_format == stored(studies, "prediction", "image")).all()
    later = open_slicer(autoRunSegmentationOnNextSample=False)
    assert later.next_sample() == "image"
    assert (later.annotation() == paint()).all()
    assert annotator.errors == later.errors == []
    if form == "DICOM":
        # Nothing about the patient leaves the server.
        paths = (
            "/datastore/?output=all",
            "/datastore/image?image=image",
            "/datastore/image/info?image=image",
            "/info/",
        )
        said = [reply.content for reply in (*map(server.get, paths), server.next_sample())]
        assert not any(b"Doe" in content for content in (*said, server.log.read_bytes()))


def test_points_in_time_are_images(
    open_slicer: Callable[..., Annotator], serve: Callable[..., None], studies: Path, tmp_path: Path
) -> None:
    array = np.stack([voxels(1)[0] + 1000 * time for time in range(2)]).transpose(0, 3, 2, 1)
    tifffile.imwrite(tmp_path / "image.tif", array, ome=True, metadata={"axes": "TZYX"})
    serve(tmp_path / "image.tif", images={"image_t0000", "image_t0001"})
    annotator = open_slicer()
    opened = [annotator.next_sample()]
    annotator.paint_annotation(paint())
    annotator.submit()
    opened.append(annotator.next_sample())
    assert sorted(opened) == ["image_t0000", "image_t0001"]
    assert (stored(studies, "final", opened[0]) == paint()).all()
    assert not annotator.annotation().any()
    assert annotator.errors == []
