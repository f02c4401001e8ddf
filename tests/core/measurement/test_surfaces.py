"""Surfaces are closed, lie where the voxels are, and other programs read them so."""

import nibabel
import numpy as np
import pytest
import vtk
from vtk.util.numpy_support import vtk_to_numpy

import shapes
from lib.core.errors import InputError
from lib.core.measurement.surfaces import surface_of, write_surface

READERS = {".stl": vtk.vtkSTLReader, ".ply": vtk.vtkPLYReader, ".obj": vtk.vtkOBJReader}


def affine_of(*towards):
    """Return an affine whose axes have other directions, with voxels of 1 × 1.5 × 2 mm."""
    turn = nibabel.orientations.inv_ornt_aff(nibabel.orientations.axcodes2ornt(towards), (30, 24, 20))
    return turn @ np.diag([1.0, 1.5, 2.0, 1.0])


@pytest.mark.parametrize("seed", range(8))
def test_any_voxels_have_a_closed_surface(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((9, 8, 7)) < rng.uniform(0.1, 0.9)
    mesh = surface_of(mask, np.eye(4))
    edges = np.sort(mesh.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
    assert mesh.volume > 0


@pytest.mark.parametrize("towards", ["RAS", "LPS", "LAS", "SRA"])
def test_a_surface_lies_around_its_voxels_with_its_outside_out(towards):
    mask = np.zeros((30, 24, 20), bool)
    mask[4:20, 3:15, 5:14] = True
    affine = affine_of(*towards)
    mesh = surface_of(mask, affine)
    corners = nibabel.affines.apply_affine(affine, [[3.5, 2.5, 4.5], [19.5, 14.5, 13.5]]) * [-1, -1, 1]
    # Smoothing moves faces by up to a quarter of a voxel.
    assert mesh.bounds == pytest.approx(np.sort(corners, axis=0), abs=0.5)
    assert mesh.volume == pytest.approx(mask.sum() * 3, rel=0.02)


def test_voxels_at_the_border_are_closed_in():
    mesh = surface_of(np.ones((12, 12, 12), bool), np.eye(4))
    assert mesh.is_watertight
    assert mesh.bounds == pytest.approx(np.array([[-11.5, -11.5, -0.5], [0.5, 0.5, 11.5]]), abs=0.3)


@pytest.mark.parametrize("ending", READERS)
def test_vtk_reads_what_was_written(ending, tmp_path):
    mesh = surface_of(shapes.ball(shapes.places(20, (1, 1, 1)), 8), affine_of(*"RAS"))
    write_surface(tmp_path / f"ball{ending}", mesh)
    assert b"SPACE=LPS" in (tmp_path / f"ball{ending}").read_bytes()[:200]
    reader = READERS[ending]()
    reader.SetFileName(str(tmp_path / f"ball{ending}"))
    reader.Update()
    found = reader.GetOutput()
    assert found.GetNumberOfCells() == len(mesh.faces)
    points = vtk_to_numpy(found.GetPoints().GetData())
    assert np.stack([points.min(axis=0), points.max(axis=0)]) == pytest.approx(mesh.bounds, abs=1e-3)
    mass = vtk.vtkMassProperties()
    mass.SetInputConnection(reader.GetOutputPort())
    mass.Update()
    assert mass.GetSurfaceArea() == pytest.approx(mesh.area, rel=1e-4)
    assert mass.GetVolume() == pytest.approx(mesh.volume, rel=1e-4)


def test_other_endings_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"ball\.vtk: surfaces are written as \.stl, \.ply, \.obj"):
        write_surface(tmp_path / "ball.vtk", surface_of(np.ones((3, 3, 3), bool), np.eye(4)))
    assert list(tmp_path.iterdir()) == []
