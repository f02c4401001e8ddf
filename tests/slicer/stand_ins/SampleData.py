"""Stand-in for Slicer's download of files into its cache."""

import hashlib
import urllib.request
from pathlib import Path

import slicer


class SampleDataLogic:
    def downloadFromURL(self, uris: str, fileNames: str, nodeNames: str, checksums: str | None = None) -> list[object]:
        """Load a volume from its address, or from the cache if that has a file of this name and checksum."""
        file = Path(slicer.app.cachePath, fileNames)
        algorithm, _, expected = (checksums or "").partition(":")
        if not file.exists() or (expected and not _has(file, algorithm, expected)):
            urllib.request.urlretrieve(uris, file)
        if expected and not _has(file, algorithm, expected):
            raise ValueError(f"{file.name} has another checksum than {checksums}")
        node = slicer.util.loadVolume(str(file))
        node.SetName(nodeNames)
        return [node]


def _has(file: Path, algorithm: str, checksum: str) -> bool:
    return hashlib.new(algorithm, file.read_bytes()).hexdigest() == checksum
