"""Images as the real volume reader of 3D Slicer reads them."""

from pathlib import Path

import numpy as np
import vtk
from numpy.typing import NDArray
from vtk.util.numpy_support import vtk_to_numpy

from application import slicer


def in_slicer(path: Path) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """Return the voxels (i, j, k) of an image's first channel and its affine (RAS), as Slicer reads them."""
    scene, logic = slicer.vtkMRMLScene(), slicer.vtkSlicerVolumesLogic()
    logic.SetMRMLScene(scene)
    node = logic.AddArchetypeVolume(str(path), "image", 0)
    image, matrix = node.GetImageData(), vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(*image.GetDimensions()[::-1], -1)
    affine = np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])
    return array[..., 0].T.copy(), affine
