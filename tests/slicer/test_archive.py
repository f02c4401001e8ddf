"""Images of a DICOM archive in 3D Slicer: paint goes there too, and comes back from there after the project is lost."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from annotator import Annotator
from dicom_series import PATIENT
from orthanc import Orthanc, needs_orthanc, voxels_of
from project import APP
from serving import SEGMENTS, SHAPE, Server, paint, stored
from stores import corrected

pytestmark = [pytest.mark.slow, needs_orthanc]

SERIES = "1.2.3.1"

OBLIQUE = tuple(np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0][:2].ravel())
"""Directions of the rows and columns of an image that lies aslant."""


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    """An archive with two series, one of them too small for an image."""
    archive = Orthanc(tmp_path / "orthanc").start()
    image = np.random.default_rng(1).integers(0, 60, SHAPE).astype(np.int16)
    image[5:15, 4:14, 3:9] += 300
    archive.add_series(tmp_path / "series", image, SERIES, orientation=OBLIQUE, FrameOfReferenceUID="1.2.3.9")
    archive.add_series(tmp_path / "single", image[..., :1], "1.2.3.2")
    yield archive
    archive.stop()


def connected(server: Server, folder: Path, name: str) -> Annotator:
    annotator = Annotator(server.url, folder, name, autoRunSegmentationOnNextSample=False)
    annotator.connect()
    return annotator


def infos(project: Path) -> list[dict[str, Any]]:
    """What is known of both versions, but for the time of writing."""
    paths = [project / f"labels/version_{version}/{SERIES}.json" for version in (1, 2)]
    return [{**json.loads(path.read_text()), "ts": 0} for path in paths]


def test_both_versions_come_back_after_the_project_is_lost(
    orthanc: Orthanc, tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    project = tmp_path / "project"
    tools = set(APP.rglob("*"))
    server = start_server(project, archive=orthanc.address, width="2").wait()
    assert list(server.client.datastore()["objects"]) == [SERIES]
    assert not (project / SERIES).exists()
    annotator = connected(server, tmp_path / "slicer", "Jürgen")
    assert annotator.next_sample() == SERIES
    assert annotator.segments() == SEGMENTS
    annotator.paint_annotation(paint())
    first = annotator.submit()
    assert (first["version"], any("archive" in warning for warning in first["warnings"])) == (1, False)
    annotator.paint("tubule", corrected() != paint())
    assert annotator.submit()["version"] == 2
    assert (stored(project, "final", SERIES) == corrected()).all()
    assert annotator.errors == []

    # Both are in the archive, voxel for voxel, by a decoder that has nothing in common with the software.
    files = [pydicom.dcmread(file) for file in (tmp_path / "series").iterdir()]
    normal = np.cross(OBLIQUE[:3], OBLIQUE[3:])
    files.sort(key=lambda one: float(np.dot(one.ImagePositionPatient, normal)))
    in_archive = orthanc.segmentations()
    assert [voxels_of(one, files).tolist() for one in in_archive] == [paint().tolist(), corrected().tolist()]
    assert {one.StudyInstanceUID for one in in_archive} == {files[0].StudyInstanceUID}
    assert {str(one.PatientName) for one in in_archive} == {PATIENT}
    assert [one.SeriesDescription for one in in_archive] == [
        f"Sparse U-Net 3D, version {version}, Jürgen" for version in (1, 2)
    ]

    # The project is lost.
    server.stop()
    annotator.close()
    before = infos(project)
    shutil.rmtree(project)
    server = start_server(project, archive=orthanc.address, width="2").wait()
    server.wait_until(lambda: (project / f"labels/final/{SERIES}.nii.gz").exists())
    for version, expected in ((1, paint()), (2, corrected())):
        assert (stored(project, f"version_{version}", SERIES) == expected).all()
    assert infos(project) == before
    assert [(info["version"], info["client_id"]) for info in before] == [(1, "Jürgen"), (2, "Jürgen")]
    later = connected(server, tmp_path / "slicer later", "another")
    assert later.next_sample() == SERIES
    assert (later.annotation() == corrected()).all()
    later.set_option("train", "sparse_unet3d", "max_epochs", "1")
    later.train()
    server.wait_for_training(lambda _, status: status == "DONE")
    later.connect()
    later.run()
    assert later.prediction().shape == SHAPE
    later.paint("inside", paint() == 1)
    assert later.submit()["version"] == 3
    assert later.errors == []
    later.close()
    assert len(orthanc.segmentations()) == 3

    # Nothing about the patient leaves the server but for the files in the archive, and no program was fetched.
    paths = ("/datastore/?output=all", f"/datastore/image?image={SERIES}", "/info/", "/")
    said = [server.get(path).content for path in paths]
    assert not any(b"Doe" in content for content in (*said, server.log.read_bytes()))
    assert {path for path in APP.rglob("*") if path.suffix != ".pyc"} <= tools
