"""Submissions to a file system that is full, to every degree: refused or kept as a whole, and accepted afterwards."""

import errno
import os
import resource
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.server.store.datastore import AnnotationStore
from serving import paint, snapshot, stored, write_image
from stores import SCHEME, corrected, in_child, open_store, submit

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("file systems can't be mounted here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def files_of(studies: Path) -> dict[str, bytes]:
    return {name: content for name, content in snapshot(studies).items() if not name.startswith("datastore_v2")}


def test_at_every_fill_level(small_disk: Path, tmp_path: Path) -> None:
    studies = small_disk / "studies"
    studies.mkdir()
    write_image(studies / "a.nii.gz")
    store = open_store(studies)
    submit(store, tmp_path, paint())
    before = files_of(studies)
    refused, accepted, numbers = 0, 0, set[int | None]()
    for free in range(0, 160 * 1024, 4096):
        filler = small_disk / "filler"
        filler.unlink(missing_ok=True)
        filler.write_bytes(bytes(max(0, shutil.disk_usage(small_disk).free - free)))
        try:
            submit(store, tmp_path, corrected())
        except OSError as error:
            numbers.add(error.errno)
            refused += 1
            assert store.current("a")["version"] == 1 + accepted
            if not accepted:
                assert files_of(studies) == before
        else:
            accepted += 1
            assert store.current("a")["version"] == 1 + accepted
    filler.unlink()
    assert numbers == {errno.ENOSPC}
    assert refused >= 3
    assert accepted >= 3
    store = open_store(studies)
    assert sorted(store.versions("a")) == list(range(1, 2 + accepted))
    assert (stored(studies, "final") == corrected()).all()
    submit(store, tmp_path, paint())
    assert (stored(studies, "final") == paint()).all()


def test_an_archive_leaves_space_for_submissions(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies = small_disk / "studies"
    studies.mkdir()
    write_image(studies / "a.nii.gz", seed=1)
    store = open_store(studies)
    submit(store, tmp_path, paint())
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    size = os.path.getsize(store.get_dataset_archive(None))
    (archive,) = small_disk.glob("dataset-*.zip")
    archive.unlink()
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 2 * size + 8192))
    with pytest.raises(OSError, match="half of the free space") as refused:
        store.get_dataset_archive(None)
    assert refused.value.errno == errno.ENOSPC
    # An image that can't be read in the middle of it leaves nothing, either.
    filler.unlink()
    monkeypatch.setattr(zipfile.ZipFile, "writestr", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "no")))
    with pytest.raises(OSError, match="no"):
        store.get_dataset_archive(None)
    assert not list(small_disk.glob("dataset-*"))


@pytest.mark.parametrize("limit", [0, 100, 300, 1000])
def test_files_that_may_not_grow(studies: Path, tmp_path: Path, limit: int) -> None:
    submit(open_store(studies), tmp_path, paint())
    before = files_of(studies)

    def work() -> None:
        store = AnnotationStore(str(studies), SCHEME)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            submit(store, tmp_path / "elsewhere", corrected())
        except OSError as error:
            os._exit(7 if error.errno == errno.EFBIG else 8)

    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/limit").write_text("")
    assert in_child(work) == 7
    assert files_of(studies) == before
    store = open_store(studies)
    assert store.current("a")["version"] == 1
    assert submit(store, tmp_path, corrected()).info["version"] == 2
