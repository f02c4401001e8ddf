"""What clients know: which voxels they sent, and which version was acknowledged with which voxels.

It is compared with the files in the folder, which are read here without the software under test.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray

from lib.server.slicer.segments import server_segments
from serving import paint
from stores import SCHEME, index_of

OFFSET = len(server_segments(SCHEME))
"""Slicer's values of the classes begin after these."""


def annotation(number: int) -> NDArray[np.uint8]:
    """Return an annotation of the image of ``serving.write_image``; each number has other classes in other voxels."""
    painted = paint()
    places = painted > 0
    painted[places] = np.random.default_rng(number).integers(1, 4, int(places.sum()))
    return painted


def fingerprint(voxels: NDArray[Any]) -> str:
    """Return a checksum of the voxels of a label map."""
    return hashlib.sha256(np.ascontiguousarray(voxels, dtype=np.uint8).tobytes()).hexdigest()[:16]


class Ledger:
    """The annotations of one folder, as its clients know them."""

    def __init__(self) -> None:
        self._sent: dict[str, set[str]] = {}
        self._acknowledged: dict[tuple[str, int], str] = {}
        self._seen: dict[Path, tuple[tuple[int, ...], str]] = {}

    def copy(self) -> "Ledger":
        """Return what is known now."""
        copied = Ledger()
        copied._sent = {image: {*sent} for image, sent in self._sent.items()}
        copied._acknowledged = {**self._acknowledged}
        return copied

    def send(self, image: str, voxels: str) -> None:
        """Note that a submission with this fingerprint may be stored from now on."""
        self._sent.setdefault(image, set()).add(voxels)

    def acknowledge(self, image: str, version: int, voxels: str) -> list[str]:
        """Note that a version was acknowledged with this fingerprint; return what is wrong with that."""
        key = (image, version)
        if key in self._acknowledged:
            return [f"{image}, version {version}: acknowledged twice"]
        self._acknowledged[key] = voxels
        return []

    def acknowledged(self, image: str) -> dict[int, str]:
        """Return the acknowledged versions of an image with their fingerprints."""
        return {version: voxels for (of, version), voxels in self._acknowledged.items() if of == image}

    def count(self) -> int:
        """Return how many versions were acknowledged."""
        return len(self._acknowledged)

    def faults(self, studies: Path, thorough: bool = False) -> list[str]:
        """Compare with the folder, after a server has started on it; return what is lost, torn or wrong.

        Args:
            studies: the folder.
            thorough: read files again that haven't changed since the last call.
        """
        if thorough:
            self._seen.clear()
        faults, index = [], index_of(studies)
        for image in sorted(self._sent):
            found = self._versions(studies, image)
            kept = self.acknowledged(image)
            faults += [f"{image}, version {v}: acknowledged, and lost" for v in sorted(kept.keys() - found.keys())]
            for version, voxels in sorted(found.items()):
                if version in kept and voxels != kept[version]:
                    faults.append(f"{image}, version {version}: acknowledged with other voxels")
                elif voxels not in self._sent[image]:
                    faults.append(f"{image}, version {version}: torn, nobody sent these voxels ({voxels})")
            if sorted(found) != list(range(1, len(found) + 1)):
                faults.append(f"{image}: the versions are {sorted(found)}")
            if found:
                faults += self._current_faults(studies, image, max(found), found[max(found)], index)
        return faults

    def _current_faults(self, studies: Path, image: str, newest: int, voxels: str, index: dict[str, Any]) -> list[str]:
        faults = []
        for tag, offset in (("final", 0), ("original", OFFSET)):
            if self._fingerprint(studies / "labels" / tag / f"{image}.nii.gz", offset) != voxels:
                faults.append(f"{image}: {tag} isn't the newest version, {newest}")
            try:
                beside = json.loads((studies / "labels" / tag / f"{image}.json").read_bytes())["version"]
                listed = index[image]["labels"][tag]["info"]["version"]
            except (OSError, ValueError, LookupError) as error:
                faults.append(f"{image}: what is kept with {tag} is lost or torn ({error!r})")
                continue
            if beside != newest:
                faults.append(f"{image}: the file beside {tag} says version {beside}, not {newest}")
            if listed != newest:
                faults.append(f"{image}: the index says version {listed} of {tag}, not {newest}")
        return faults

    def _versions(self, studies: Path, image: str) -> dict[int, str]:
        found = {}
        for path in (studies / "labels").glob(f"version_*/{image}.nii.gz"):
            number = re.fullmatch(r"version_(\d+)", path.parent.name)
            if number:
                found[int(number[1])] = self._fingerprint(path)
        return found

    def _fingerprint(self, path: Path, offset: int = 0) -> str:
        try:
            state = path.stat()
            stamp = (state.st_ino, state.st_mtime_ns, state.st_size)
            if self._seen.get(path, ((), ""))[0] != stamp:
                voxels = np.asarray(nibabel.Nifti1Image.from_filename(path).dataobj).astype(np.int16)
                voxels[voxels > 0] -= offset
                beside = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_bytes())
                if beside["sha256"] != hashlib.sha256(path.read_bytes()).hexdigest():
                    return f"{path.name}: another checksum than the file beside it says"
                self._seen[path] = (stamp, fingerprint(voxels))
            return self._seen[path][1]
        except Exception as error:
            return f"unreadable: {error!r}"


class ModelLedger:
    """The models that were published into one folder, each of a run of its own, as those who published them know."""

    def __init__(self) -> None:
        self._sent: list[str] = []
        self.acknowledged: list[str] = []

    def send(self, run: str) -> None:
        """Note that this run's model may be published from now on."""
        self._sent.append(run)

    def acknowledge(self, run: str) -> None:
        """Note that this run's model was published."""
        self.acknowledged.append(run)

    def faults(self, folder: Path) -> list[str]:
        """Compare with the folder; return what is lost, torn or wrong."""
        if not (folder / "model.pt").exists():
            return ["a model was published, and there is none"] if self.acknowledged else []
        faults, kept = [], set[str]()
        for path in [folder / "model.pt", *sorted((folder / "archive").glob("*.pt"))]:
            run = whole_model(path)
            if run not in self._sent:
                faults.append(f"{path.name}: torn ({run})")
            kept.add(run)
        faults += [f"{run}: published, and lost" for run in self.acknowledged if run not in kept]
        published = whole_model(folder / "model.pt")
        newest = self.acknowledged[-1:]
        if published in self._sent and any(self._sent.index(published) < self._sent.index(run) for run in newest):
            faults.append(f"model.pt is of {published}, older than {newest[0]}")
        for name in ("history.json", "plan.json"):
            try:
                if (folder / name).exists():
                    json.loads((folder / name).read_bytes())
                elif self.acknowledged:
                    faults.append(f"{name}: lost")
            except ValueError as error:
                faults.append(f"{name}: torn ({error})")
        return faults


def whole_model(path: Path) -> str:
    """Return the run of a model of ``storing.model``; otherwise why it is none that is whole."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        values = {float(value) for part in content["network"].values() for value in part.double().unique()}
        number = float(content["run"].split()[-1]) % 1000
        return str(content["run"]) if values == {number} else f"its weights are {sorted(values)[:3]}"
    except Exception as error:
        return f"unreadable: {error!r}"[:200]


def leftovers(studies: Path, temporary: Path) -> list[str]:
    """Return incomplete files in a folder, and temporary folders besides the one of the server that runs now."""
    folders = sorted(temporary.glob("sparse_unet3d-*"))
    return [
        *(f"left over: {path.relative_to(studies)}" for path in studies.rglob(".writing-*")),
        *(f"left over: {path.name} of a server that was killed" for path in folders[:-1]),
    ]
