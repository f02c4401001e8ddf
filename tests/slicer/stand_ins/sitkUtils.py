"""Stand-in for Slicer's exchange of images with SimpleITK."""

import numpy as np
import SimpleITK as sitk

import slicer


def PushVolumeToSlicer(
    image: sitk.Image, targetNode: None = None, name: str | None = None, className: str = "vtkMRMLScalarVolumeNode"
) -> object:
    """Make a volume node in the scene of an image."""
    node = slicer.mrmlScene.AddNewNodeByClass(className, name or className)
    to_lps = np.eye(4)
    to_lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    to_lps[:3, 3] = image.GetOrigin()
    slicer.util.updateVolumeFromArray(node, sitk.GetArrayFromImage(image))
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.diag([-1.0, -1.0, 1.0, 1.0]) @ to_lps))
    return node
