"""Projects checked, exported and imported, with files damaged by hand and clients that submit at the same time."""

import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lib.commands.project import check_text, export, unpack
from lib.core.errors import InputError
from lib.core.processes import this_process
from lib.core.volumes.reading import read_volume
from lib.server.store.annotations import AnnotationReader
from ome_zarr_files import multiscale, scale_of, write_array, write_attributes
from serving import APP, SHAPE, SPACING, paint, scaled, snapshot, stored, write_image
from stores import open_store, submit

LABEL = "labels/version_1/a.nii.gz"
NAME = "import sys; sys.path.insert(0, sys.argv[1]); from lib.core.processes import this_process as p; print(p())"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with two images, two versions, a prediction, a ready-made mask that was replaced, and models."""
    studies = tmp_path / "studies"
    studies.mkdir()
    for seed, name in enumerate("ab"):
        write_image(studies / f"{name}.nii.gz", seed=seed)
    for name in ("models/model.pt", "models/archive/model_0001.pt", "models/events/x", "labels/ready_made/a.nii.gz"):
        (studies / name).parent.mkdir(parents=True, exist_ok=True)
        (studies / name).write_bytes(name.encode())
    store = open_store(studies)
    submit(store, tmp_path, paint())
    submit(store, tmp_path, paint()[::-1])
    store.save_prediction("a", np.ones(SHAPE, np.uint8), np.ones(SHAPE, np.uint8), scaled(*SPACING), {"seconds": 3.0})
    return studies


def damage(path: Path, at: int = -20) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_sound_project(project: Path) -> None:
    before = snapshot(project)
    assert check_text(project) == ("images: 2, labels as they were stored: 6, faults: 0", True)
    assert snapshot(project) == before


def test_labels_that_people_put_there_and_that_were_replaced_are_no_faults(project: Path) -> None:
    for name in ("a.nii.gz", "1.a.nii.gz"):
        (project / "labels/ready_made" / name).write_bytes(b"anything")
    open_store(project)
    assert check_text(project) == ("images: 2, labels as they were stored: 6, faults: 0", True)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="zarr 3 needs Python 3.11")
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_folder_that_is_an_image_is_moved_with_all_its_files(project: Path, tmp_path: Path, version: str) -> None:
    array = np.random.default_rng(0).integers(0, 99, (4, 5, 6)).astype(np.uint8)
    write_attributes(project / "z.zarr", {"multiscales": [multiscale("zyx", [[scale_of(1, 1, 1)]], version)]}, version)
    write_array(project / "z.zarr/0", array, "zyx", version)
    export(project, project / "models", tmp_path / "project.zip")
    unpack(tmp_path / "project.zip", tmp_path / "moved")
    assert snapshot(tmp_path / "moved/z.zarr") == snapshot(project / "z.zarr")
    assert (read_volume(tmp_path / "moved/z.zarr").array[0] == array.T).all()
    assert check_text(tmp_path / "moved")[0].startswith("images: 3, ")


def test_what_a_killed_move_left_is_removed_by_the_next(project: Path, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", NAME, APP], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        ended = process.stdout.read().strip()
    for name in ("export", "import"):
        place = tmp_path / name
        (place / f".writing-{ended}-folder/labels").mkdir(parents=True)
        (place / f".writing-{ended}-file.zip").touch()
        (place / f".writing-{this_process()}-file.zip").touch()
    export(project, project / "models", tmp_path / "export/project.zip")
    unpack(tmp_path / "export/project.zip", tmp_path / "import/studies")
    for name in ("export", "import"):
        assert [path.name for path in (tmp_path / name).glob(".*")] == [f".writing-{this_process()}-file.zip"]


def _lose_image(project: Path) -> None:
    (project / "a.nii.gz").unlink()


def _lose_version(project: Path) -> None:
    for path in (project / "labels/version_1").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (
            lambda folder: damage(folder / "labels/version_1/a.nii.gz"),
            "labels/version_1/a.nii.gz: not as it was stored",
        ),
        (lambda folder: damage(folder / "labels/final/a.nii.gz"), "labels/final/a.nii.gz: not as it was stored"),
        (lambda folder: (folder / "labels/version_2/a.json").unlink(), "labels/version_2/a.json: gone"),
        (lambda folder: (folder / "labels/prediction/a.nii.gz").unlink(), "labels/prediction/a: gone; put it back"),
        (lambda folder: damage(folder / "a.nii.gz"), "a.nii.gz"),
        (_lose_image, "a: the index lists this image, but the folder has no file of it"),
        (_lose_version, "a: version 1 is gone; put labels/version_1/a back"),
    ],
)
def test_damage_is_found(project: Path, harm: Callable[[Path], None], said: str) -> None:
    harm(project)
    text, is_sound = check_text(project)
    assert not is_sound
    assert said in text


@pytest.mark.parametrize(("is_damaged", "code"), [(False, 0), (True, 1)])
def test_the_exit_code_tells(project: Path, is_damaged: bool, code: int) -> None:
    if is_damaged:
        damage(project / LABEL)
    command = [sys.executable, str(APP), "annotations", "check", "--studies", str(project)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code
    assert f"faults: {code}" in done.stdout


def test_what_only_the_index_lacks_is_a_note(project: Path) -> None:
    (project / "datastore_v2.json").unlink()
    (project / "datastore_v2.journal").unlink()
    text, is_sound = check_text(project)
    assert is_sound
    assert "Note: labels/version_1/a: not in the index yet" in text


def test_a_folder_without_labels(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    write_image(tmp_path / "new/a.nii.gz")
    assert check_text(tmp_path / "new") == ("images: 1, labels as they were stored: 0, faults: 0", True)
    with pytest.raises(InputError, match="no such folder"):
        check_text(tmp_path / "none")


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and ".lock" not in path.name)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_moved(project: Path, tmp_path: Path) -> None:
    file, target = tmp_path / "project.zip", tmp_path / "new/studies"
    assert export(project, project / "models", file).startswith(f"{file}: images: 2, ")
    assert unpack(file, target).startswith(f"{target}: images: 2, ")
    there, here = files(target), files(project)
    assert there.keys() == here.keys() - {"models/events/x", "datastore_v2.journal"}
    assert all(there[name] == here[name] for name in there if name != "datastore_v2.json")
    assert check_text(target)[1]
    before = AnnotationReader(str(project)).json()["objects"]
    assert AnnotationReader(str(target)).json()["objects"] == before
    store = open_store(target)
    assert submit(store, tmp_path, paint()).info["version"] == 3
    assert sorted(path.name for path in target.parent.iterdir()) == ["studies"]


def test_exported_while_clients_submit(project: Path, tmp_path: Path) -> None:
    store, done, acknowledged = open_store(project), threading.Event(), [2]
    (tmp_path / "client").mkdir()

    def submit_all_the_time() -> None:
        while not done.is_set():
            acknowledged.append(submit(store, tmp_path / "client", np.roll(paint(), len(acknowledged))).info["version"])

    client = threading.Thread(target=submit_all_the_time)
    client.start()
    try:
        for number in range(8):
            at_least = acknowledged[-1]
            export(project, project / "models", tmp_path / f"{number}.zip")
            unpack(tmp_path / f"{number}.zip", tmp_path / f"{number}")
            moved = open_store(tmp_path / f"{number}")
            newest = moved.current("a")["version"]
            assert newest >= at_least
            assert list(moved.versions("a")) == list(range(1, newest + 1))
            assert (stored(tmp_path / f"{number}", "final") == stored(project, f"version_{newest}")).all()
            assert check_text(tmp_path / f"{number}")[1]
    finally:
        done.set()
        client.join()


def rewrite(file: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Change a ZIP file."""
    with zipfile.ZipFile(file) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    change(content)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in content.items():
            archive.writestr(name, value)


def _rename(old: str, new: str) -> Callable[[dict[str, bytes]], None]:
    def change(content: dict[str, bytes]) -> None:
        content[new] = content.pop(old)
        listed = json.loads(content["project.json"])
        listed["files"][new] = listed["files"].pop(old)
        content["project.json"] = json.dumps(listed).encode()

    return change


def _alter(name: str) -> Callable[[dict[str, bytes]], None]:
    return lambda content: content.update({name: content[name][:-8] + b"12345678"})


def _shrink(content: dict[str, bytes]) -> None:
    listed = json.loads(content["project.json"])
    listed["files"]["a.nii.gz"]["size"] = 10
    content["project.json"] = json.dumps(listed).encode()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_rename(LABEL, "../a.nii.gz"), "no file of a project"),
        (_rename(LABEL, "/tmp/a.nii.gz"), "no file of a project"),
        (_rename(LABEL, "labels/../../x"), "no file of a project"),
        (_rename(LABEL, "labels\\version_1\\a.nii.gz"), "no file of a project"),
        (_rename(LABEL, "C:a.nii.gz"), "no file of a project"),
        (_rename(LABEL, "users.json"), "no file of a project"),
        (_rename(LABEL, "models/evil.pkl"), "no file of a project"),
        (_rename(LABEL, ".ssh/authorized_keys"), "no file of a project"),
        (_alter(LABEL), "isn't as it was exported"),
        (_shrink, "isn't as it was exported"),
        (lambda content: content.update({"more": b""}), "other files than"),
        (lambda content: content.pop("project.json"), "isn't a project"),
        (lambda content: content.update({"project.json": b'{"format": 2, "files": {}}'}), "isn't a project"),
        (lambda content: content.update({"project.json": b"[" * 10**5}), "isn't a project"),
    ],
)
def test_a_changed_project_is_refused(
    project: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], None], said: str
) -> None:
    file, target = tmp_path / "project.zip", tmp_path / "place/new"
    target.parent.mkdir()
    export(project, project / "models", file)
    rewrite(file, change)
    with pytest.raises(InputError, match=said):
        unpack(file, target)
    assert not list(target.parent.iterdir())


@pytest.mark.parametrize("keep", [0, 10, 0.3, 0.999])
def test_a_part_of_a_project_is_refused(project: Path, tmp_path: Path, keep: float) -> None:
    file = tmp_path / "project.zip"
    export(project, project / "models", file)
    size = file.stat().st_size
    os.truncate(file, int(size * keep) if keep < 1 else int(keep))
    with pytest.raises(InputError, match="can't be read as a project"):
        unpack(file, tmp_path / "new")


def test_nothing_is_overwritten(project: Path, tmp_path: Path) -> None:
    file = tmp_path / "project.zip"
    export(project, project / "models", file)
    with pytest.raises(InputError, match="exists already"):
        export(project, project / "models", file)
    with pytest.raises(InputError, match="isn't empty"):
        unpack(file, project)
    (tmp_path / "empty").mkdir()
    unpack(file, tmp_path / "empty")
    with pytest.raises(InputError, match="No such file"):
        unpack(tmp_path / "none.zip", tmp_path / "other")
