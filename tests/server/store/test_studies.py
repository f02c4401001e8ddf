"""The folder that is served: a missing folder, and unusable files in it."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lib.core.errors import InputError
from lib.server.store.studies import describe_unused, require_folder
from serving import Server, wait_until, write_image


def refused(server: Server) -> str:
    """Return the message of a server that can't start."""
    wait_until(lambda: server.process.poll() is not None)
    assert server.process.returncode != 0
    log = server.log.read_text()
    assert "Traceback" not in log[log.index("The server cannot start") :]
    return log


@pytest.mark.slow
def test_a_missing_folder_is_refused_and_not_created(tmp_path: Path, start_server: Callable[..., Server]) -> None:
    folder = tmp_path / "typo"
    assert f"{folder}: there is no such folder; check the path, or create it with --conf create yes" in refused(
        start_server(folder)
    )
    assert not folder.exists()


@pytest.mark.slow
def test_unusable_files_are_reported_at_start_in_info_and_by_next_sample(
    tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    folder = tmp_path / "new"
    server = start_server(folder, create="yes").wait()
    empty = f"{folder}: there is no image to annotate in this folder; put images into it"
    assert empty in server.log.read_text()
    for number in range(60):
        (folder / f"{number}.dcm").touch()
    (folder / "patient").mkdir()
    write_image(folder / "patient" / "a.nii.gz")
    said = [
        "60 .dcm files (0.dcm, 1.dcm, 10.dcm, …): DICOM: put the files of each patient or series into a folder of "
        "their own, in the served folder",
        "1 volume in subfolders (patient/a.nii.gz): move them into the served folder itself",
    ]
    for strategy in ("sparse", "next_slice", "random", "first"):
        reply = server.next_sample(strategy)
        assert reply.status_code == 400
        assert all(words in reply.json()["detail"] for words in said)
    assert all(words in server.get("/info/").json()["description"] for words in said)

    write_image(folder / "b.nii.gz")
    wait_until(lambda: server.next_sample("sparse").status_code == 200, server.process)
    assert "no image to annotate" not in server.get("/info/").json()["description"]


def test_an_empty_folder_that_already_existed_is_used(tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    os.utime(folder, (time.time() - 86400,) * 2)
    require_folder(str(folder), create=False)
    assert folder.is_dir()


def test_a_folder_is_created_on_request(tmp_path: Path) -> None:
    require_folder(str(tmp_path / "new" / "folder"), create=True)
    assert (tmp_path / "new" / "folder").is_dir()


def test_a_file_instead_of_a_folder_is_refused(tmp_path: Path) -> None:
    file = write_image(tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="can't be used as a folder"):
        require_folder(str(file), create=True)


def test_each_kind_of_file_comes_with_advice(tmp_path: Path) -> None:
    for name in ("a.lsm", "b.OIB", "c.mgz", "d.zip", "notes.txt", "e.json", ".hidden.mha", "x.nii.gz", "x.nrrd"):
        (tmp_path / name).touch()
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "README").write_text("DICM")
    (tmp_path / "s.nrrd").write_text("NRRD0004\nSegment0_ID:=1\n")
    (tmp_path / "t.seg.nii.gz").touch()
    for folder in ("f.n5", "labels", "p/q"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("f.n5/0.tif", "labels/a.mha", "p/q/1.dcm", "p/y.nii"):
        (tmp_path / name).touch()
    lines = describe_unused(tmp_path, {"x.nii.gz"})
    assert [line.split(": ")[0] for line in lines] == [
        "1 .dcm file (IM0001)",
        "1 .dcm file in subfolders (p/q/1.dcm)",
        "1 .lsm file (a.lsm)",
        "1 .mgz file (c.mgz)",
        "1 .n5 folder (f.n5)",
        "1 .oib file (b.OIB)",
        "2 .seg.nrrd files (s.nrrd, t.seg.nii.gz)",
        "1 .zip file (d.zip)",
        "1 volume (x.nrrd)",
        "1 volume in subfolders (p/y.nii)",
    ]
    assert all(line.split(": ", 1)[1] for line in lines)


def test_a_link_to_a_folder_above_is_not_followed(tmp_path: Path) -> None:
    write_image(tmp_path / "patient.nii.gz")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "scan.dcm").touch()
    (tmp_path / "inner" / "again").symlink_to(tmp_path, target_is_directory=True)
    (said,) = describe_unused(tmp_path, {"patient.nii.gz"})
    assert said.startswith("1 .dcm file in subfolders (inner/scan.dcm)")


def test_a_folder_that_may_not_be_read_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An example is ``lost+found`` on a separate disk."""
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "scan.dcm").touch()
    listed = Path.iterdir

    def refuse(folder: Path) -> object:
        if folder.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert len(describe_unused(tmp_path, ())) == 1
