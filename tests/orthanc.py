"""A real DICOM archive, Orthanc, in its own process on this computer."""

import json
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
from dicomweb_client import DICOMwebClient
from numpy.typing import NDArray

from dicom_series import write_series
from serving import PATIENCE, wait_until

FOLDERS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc", "/usr/local/share/orthanc/plugins")
"""Where the packages of Linux distributions put Orthanc's plugins."""


def find_plugin() -> Path | None:
    """Return the plugin by which Orthanc speaks DICOMweb; None without one, or without Orthanc."""
    if not shutil.which("Orthanc"):
        return None
    found = [path for folder in FOLDERS for path in sorted(Path(folder).glob("libOrthancDicomWeb*"))]
    return found[0] if found else None


needs_orthanc = pytest.mark.skipif(
    find_plugin() is None, reason="Orthanc isn't installed (Debian packages orthanc, orthanc-dicomweb)"
)


def free_port() -> int:
    """Return a port of this computer that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Orthanc:
    """An archive with a folder of its own. It can be stopped, and started again with what it has.

    Attributes:
        address: of DICOMweb.
        client: asks it, independently of this software's own code.
    """

    def __init__(self, folder: Path, login: tuple[str, str] | None = None) -> None:
        self._folder, self._port, self._login = folder, free_port(), login
        folder.mkdir(exist_ok=True)
        configuration = {
            "HttpPort": self._port,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": login is not None,
            "RegisteredUsers": dict([login]) if login else {},
            "StorageDirectory": str(folder / "db"),
            "IndexDirectory": str(folder / "db"),
            "Plugins": [str(find_plugin())],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (folder / "orthanc.json").write_text(json.dumps(configuration))
        self.address = f"http://127.0.0.1:{self._port}/dicom-web"
        session = requests.Session()
        session.auth = login
        self.client = DICOMwebClient(self.address, session)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Orthanc":
        """Start it, and wait until it answers."""
        with (self._folder / "orthanc.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["Orthanc", str(self._folder / "orthanc.json")],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(self._answers, self._process)
        return self

    def _answers(self) -> bool:
        try:
            requests.get(f"{self.address}/studies", auth=self._login, timeout=PATIENCE).raise_for_status()
        except requests.ConnectionError:
            return False
        return True

    def stop(self) -> None:
        """End it; what it has stays in its folder."""
        if self._process:
            self._process.kill()
            self._process.wait(timeout=PATIENCE)
            self._process = None

    def forget(self) -> None:
        """Lose all that it has; it must be stopped."""
        shutil.rmtree(self._folder / "db")

    def add_series(self, folder: Path, array: NDArray[Any], series: str, **options: Any) -> Path:
        """Write a series into a folder and store it; return the folder. For the arguments see ``write_series``."""
        write_series(folder, array, series=series, **options)
        self.client.store_instances([pydicom.dcmread(file) for file in sorted(folder.iterdir())])
        return folder

    def segmentations(self) -> list[pydicom.Dataset]:
        """Return all segmentations that it has, by the time of their versions."""
        found = self.client.search_for_series(search_filters={"Modality": "SEG"}, get_remaining=True)
        pairs = [(one["0020000D"]["Value"][0], one["0020000E"]["Value"][0]) for one in found]
        everything = [instance for pair in pairs for instance in self.client.retrieve_series(*pair)]
        return sorted(everything, key=lambda one: int(one.SeriesNumber))


def voxels_of(segmentation: pydicom.Dataset, slices: list[pydicom.Dataset]) -> NDArray[np.uint8]:
    """Decode a segmentation with numpy alone: (X, Y, Z), the number of the segment at each voxel of these slices.

    Frames are found by their position in space, and not by the files that they refer to.
    """
    rows, columns = int(segmentation.Rows), int(segmentation.Columns)
    bits = np.unpackbits(np.frombuffer(segmentation.PixelData, np.uint8), bitorder="little")
    frames = bits[: int(segmentation.NumberOfFrames) * rows * columns].reshape(-1, rows, columns)
    found = np.zeros((columns, rows, len(slices)), np.uint8)
    places = np.array([one.ImagePositionPatient for one in slices], float)
    for frame, groups in zip(frames, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        place = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        (at,) = np.flatnonzero(np.abs(places - place).max(axis=1) < 1e-3)
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found[..., at][frame.T > 0] = number
    return found
