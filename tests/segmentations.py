"""Segmentations as 3D Slicer's own code (of the slicer-core wheel) paints, exports and saves them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import vtk
from numpy.typing import NDArray

from application import slicer

Paint = Mapping[str, NDArray[np.bool_] | None]
"""The painted voxels (X, Y, Z) of the image file by segment, in the order of Slicer's list; None if untouched."""


def write_numbered(path: Path, affine: NDArray[np.float64], shape: tuple[int, ...]) -> Path:
    """Write an image whose voxels (of the first channel) are numbered, so that any reader can identify them."""
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape, order="F")
    if path.suffix == ".nrrd":
        lps = np.diag([-1, -1, 1, 1]) @ affine
        header = {"space": "left-posterior-superior", "space directions": lps[:3, :3].T, "space origin": lps[:3, 3]}
        nrrd.write(str(path), array, header)
    else:
        nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


class SlicerScene:
    """An image of ``write_numbered`` as Slicer loads it, and segmentations on it."""

    def __init__(self, image: Path) -> None:
        self.scene = slicer.vtkMRMLScene()
        self.volumes, self.segmentations = slicer.vtkSlicerVolumesLogic(), slicer.vtkSlicerSegmentationsModuleLogic()
        for logic in (self.volumes, self.segmentations):
            logic.SetMRMLScene(self.scene)
        self.image = self.volumes.AddArchetypeVolume(str(image), "image", 0)
        # For each voxel in Slicer, the number of the file's voxel, counted in Fortran order.
        self.numbers = slicer.util.arrayFromVolume(self.image).astype(int)

    def paint(self, paint: Paint) -> Any:
        """Make a segmentation node as the plugin's, on the image's geometry."""
        node = self.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        node.SetReferenceImageGeometryParameterFromVolumeNode(self.image)
        for name, mask in paint.items():
            segment = node.GetSegmentation().AddEmptySegment("", name)
            if mask is None:
                continue
            label = self.volumes.CreateAndAddLabelVolume(self.scene, self.image, "label")
            slicer.util.arrayFromVolume(label)[:] = mask.ravel(order="F")[self.numbers]
            painted = self.segmentations.CreateOrientedImageDataFromVolumeNode(label)
            # The Segment Editor's brushes do this; an import would use the voxels of empty segments, 1 mm wide.
            assert self.segmentations.SetBinaryLabelmapToSegment(
                painted, node, segment, self.segmentations.MODE_REPLACE, painted.GetExtent()
            )
        return node

    def save(self, node: Any, path: Path, crop: bool = False) -> Path:
        """Save a segmentation node."""
        storage = self.scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
        storage.SetCropToMinimumExtent(crop)
        storage.SetFileName(str(path))
        assert storage.WriteData(node)
        return path

    def export(self, node: Any) -> Any:
        """Export all segments to a label map as the plugin does."""
        label = self.scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
        segments = node.GetSegmentation().GetSegmentIDs()
        assert self.segmentations.ExportSegmentsToLabelmapNode(node, _strings(*segments), label, self.image)
        return label

    def save_label_map(self, label: Any, path: Path) -> Path:
        storage = label.CreateDefaultStorageNode()
        storage.SetFileName(str(path))
        assert storage.WriteData(label)
        return path

    def on_file(self, label: Any, shape: tuple[int, ...]) -> NDArray[np.integer[Any]]:
        """Give the values of a label map in the order of voxels (X, Y, Z) of the image file."""
        values = slicer.util.arrayFromVolume(label)
        flat = np.zeros(values.size, dtype=values.dtype)
        flat[self.numbers.ravel()] = values.ravel()
        return flat.reshape(shape, order="F")


def _strings(*texts: str) -> vtk.vtkStringArray:
    array = vtk.vtkStringArray()
    for text in texts:
        array.InsertNextValue(text)
    return array
