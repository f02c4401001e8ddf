"""A project whose images come from a real archive: what is fetched, sent and brought back, and what failures leave."""

import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from lib.core.errors import InputError
from lib.core.labels import LabelScheme
from lib.core.volumes.reading import read_geometry
from lib.server.dicomweb import exchange
from lib.server.dicomweb.errors import ArchiveError
from lib.server.dicomweb.exchanging_store import ExchangingStore
from lib.server.store import versions
from lib.server.store.annotations import AnnotationReader
from lib.server.store.checking import check
from orthanc import Orthanc, needs_orthanc, voxels_of
from serving import paint, stored, wait_until
from stores import corrected, in_child, open_store, submit

pytestmark = needs_orthanc

A, B = "1.2.3.1", "1.2.3.2"

Open = Callable[..., ExchangingStore]


@pytest.fixture
def archive(orthanc: Orthanc, tmp_path: Path, image: NDArray[np.int16]) -> Orthanc:
    """An archive with two images in two studies."""
    orthanc.add_series(tmp_path / "a", image, A)
    orthanc.add_series(tmp_path / "b", image + 1, B, StudyInstanceUID="1.2.4")
    return orthanc


def annotate(store: ExchangingStore, folder: Path, annotation: NDArray[np.uint8], image: str = A) -> list[str]:
    """Submit as 3D Slicer does, after Next Sample; return the warnings."""
    store.check_image(image)
    affine = read_geometry(store.get_image_uri(image)).affine
    return submit(store, folder, annotation, image, affine).info["warnings"]


def in_archive(archive: Orthanc, folder: Path) -> list[list[Any]]:
    """The voxels of each version of image A that the archive has."""
    files = [pydicom.dcmread(file) for file in sorted(folder.iterdir(), reverse=True)]
    return [voxels_of(one, files).tolist() for one in archive.segmentations()]


def is_all_there(store: ExchangingStore) -> bool:
    return store.undelivered() == []


def test_images_are_fetched_when_first_wanted(archive: Orthanc, open_project: Open, tmp_path: Path) -> None:
    store = open_project(archive.address)
    assert store.list_images() == [A, B]
    assert not any((store.folder / name).exists() for name in (A, B))
    store.check_image(B)
    assert not (store.folder / A).exists()
    assert len(list((store.folder / B).iterdir())) == len(list((tmp_path / "b").iterdir()))
    assert store.path_for_slicer(A) == store.folder / f".slicer/{A}.nrrd"
    assert (store.folder / A).exists()
    # Other processes see the same images, and one that changes something forgets none.
    other = AnnotationReader(str(store.folder))
    assert other.list_images() == [A, B]
    shutil.rmtree(store.folder / B)
    found = check(AnnotationReader(str(store.folder)))
    assert (found.images, found.faults) == (2, [])
    assert found.notes == [f"{B}: still in the archive alone; it is fetched when somebody wants it"]


def test_versions_are_sent_once(archive: Orthanc, open_project: Open, tmp_path: Path) -> None:
    store = open_project(archive.address)
    for annotation in (paint(), corrected()):
        assert not any("archive" in warning for warning in annotate(store, tmp_path, annotation))
    assert in_archive(archive, tmp_path / "a") == [paint().tolist(), corrected().tolist()]
    before = [one.SOPInstanceUID for one in archive.segmentations()]
    # What was sent is forgotten.
    (store.folder / f"labels/archived/{A}.json").unlink()
    store = open_project(archive.address)
    wait_until(lambda: is_all_there(store))
    assert [one.SOPInstanceUID for one in archive.segmentations()] == before
    assert list(store.versions(A)) == [1, 2]


def test_a_lost_project_comes_back(archive: Orthanc, open_project: Open, tmp_path: Path) -> None:
    store = open_project(archive.address)
    for annotation in (paint(), corrected()):
        annotate(store, tmp_path, annotation)
    annotate(store, tmp_path, paint(), B)
    store = open_project(archive.address, "another")
    wait_until(lambda: store.get_labeled_images() == [A, B])
    assert [list(store.versions(name)) for name in (A, B)] == [[1, 2], [1]]
    assert (stored(store.folder, "version_1", A) == paint()).all()
    assert (stored(store.folder, "final", A) == corrected()).all()
    assert is_all_there(store)
    annotate(store, tmp_path, paint())
    assert [one.InstanceNumber for one in archive.segmentations()] == [1] * 4
    assert list(store.versions(A)) == [1, 2, 3]


def test_lost_labels_come_back(archive: Orthanc, open_project: Open, tmp_path: Path) -> None:
    store = open_project(archive.address)
    annotate(store, tmp_path, paint())
    store.close()
    shutil.rmtree(store.folder / "labels")
    for file in store.folder.glob("datastore_v2*"):
        file.unlink()
    store = open_project(archive.address)
    wait_until(lambda: store.get_labeled_images() == [A])
    assert (stored(store.folder, "final", A) == paint()).all()


def test_the_archive_is_gone_for_a_while(archive: Orthanc, open_project: Open, tmp_path: Path) -> None:
    store = open_project(archive.address)
    annotate(store, tmp_path, paint())
    archive.stop()
    (warning,) = [text for text in annotate(store, tmp_path, corrected()) if "archive" in text]
    assert warning.startswith("version 2 is stored here, but not in the archive yet; it is sent again by itself.")
    assert f"{archive.address}: can't be reached to store an annotation" in warning
    assert "which doesn't have 1 version yet" in store.describe_source()[0]
    # Images that are here are offered first; another one says what is wrong, and leaves nothing behind.
    assert (store.is_unreadable(A), store.is_unreadable(B)) == (False, True)
    for want in (store.check_image, store.image_files, store.path_for_slicer, store.read_image):
        with pytest.raises(ArchiveError, match=f"{archive.address}: can't be reached"):
            want(B)
    assert not any(path.name.startswith(".writing") for path in store.folder.iterdir())
    # A server starts without it, too.
    store = open_project(archive.address)
    assert store.list_images() == [A, B]
    assert "can't be reached to" in store.describe_source()[0]
    assert store.undelivered() == [(A, 2)]
    archive.start()
    wait_until(lambda: is_all_there(store))
    wait_until(lambda: not store.is_unreadable(B))
    assert in_archive(archive, tmp_path / "a") == [paint().tolist(), corrected().tolist()]
    store.check_image(B)


def test_a_server_killed_after_a_submission(archive: Orthanc, open_project: Open, tmp_path: Path) -> None:
    def work() -> None:
        store = open_project(archive.address)
        # It is killed before it has sent anything, or before it has noted that.
        store.delivered.note = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        annotate(store, tmp_path, paint())

    open_project(archive.address).check_image(A)
    open_project(archive.address, "none", serve=False)
    assert in_child(work) == -signal.SIGKILL
    assert len(archive.segmentations()) == 1
    store = open_project(archive.address)
    assert store.undelivered() == [(A, 1)]
    wait_until(lambda: is_all_there(store))
    assert in_archive(archive, tmp_path / "a") == [paint().tolist()]


def test_a_server_killed_while_it_brings_versions_back(archive: Orthanc, open_project: Open, tmp_path: Path) -> None:
    store = open_project(archive.address)
    for annotation in (paint(), corrected()):
        annotate(store, tmp_path, annotation)

    def work() -> None:
        store = open_project(archive.address, "another", serve=False)
        store.listed.write(archive.address, archive_series)
        store.refresh()
        store.delivered.note = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        store.fetch(A)

    archive_series = store.archive.series()
    open_project(archive.address, "another", serve=False)
    assert in_child(work) == -signal.SIGKILL
    assert not (tmp_path / "another" / A).exists()
    store = open_project(archive.address, "another")
    wait_until(lambda: store.get_labeled_images() == [A])
    assert list(store.versions(A)) == [1, 2]
    assert (stored(store.folder, "final", A) == corrected()).all()
    assert len(archive.segmentations()) == 2


def test_foreign_and_damaged_segmentations_are_left_out(
    archive: Orthanc, open_project: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    annotate(open_project(archive.address), tmp_path, paint())
    (ours,) = archive.segmentations()
    foreign, damaged = pydicom.dcmread(_saved(ours, tmp_path)), pydicom.dcmread(_saved(ours, tmp_path))
    foreign.remove_private_tags()
    damaged.private_block(0x0099, "SPARSE_UNET3D")[0x01].value = '{"version": 2, "label_names": "none"}'
    for number, one in enumerate((foreign, damaged)):
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = f"1.2.9.{number}"
        one.SeriesInstanceUID = f"1.2.8.{number}"
        archive.client.store_instances([one])
    store = open_project(archive.address, "another")
    wait_until(lambda: store.get_labeled_images() == [A])
    assert list(store.versions(A)) == [1]
    assert "1.2.9.1: can't be read" in caplog.text
    assert "Doe" not in caplog.text


def _saved(one: pydicom.Dataset, folder: Path) -> Path:
    pydicom.dcmwrite(folder / "saved.dcm", one)
    return folder / "saved.dcm"


def test_the_project_wins_where_both_differ(
    archive: Orthanc,
    open_project: Open,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = open_project(archive.address)
    for annotation in (paint(), np.minimum(paint(), 2)):
        annotate(store, tmp_path, annotation)
    # Another project of the same archive has another version 1, which it made while the archive was gone.
    other = open_project(archive.address, "another", serve=False)
    other.listed.write(archive.address, other.archive.series())
    other.refresh()
    archive.stop()
    monkeypatch.setattr(versions, "now", lambda: "2030-01-01T00:00:00+00:00")
    shutil.copytree(tmp_path / "a", other.folder / A)
    other.refresh()
    annotate(other, tmp_path, corrected())
    archive.start()
    other = open_project(archive.address, "another")
    wait_until(lambda: is_all_there(other) and "stays there only" in caplog.text)
    assert list(other.versions(A)) == [1]
    assert (stored(other.folder, "final", A) == corrected()).all()
    assert len(archive.segmentations()) == 3
    # After a loss, the later of both is version 1.
    third = open_project(archive.address, "third")
    wait_until(lambda: third.get_labeled_images() == [A])
    assert list(third.versions(A)) == [1, 2]
    assert (stored(third.folder, "version_1", A) == corrected()).all()


def test_versions_of_another_scheme_come_back(archive: Orthanc, open_project: Open, tmp_path: Path) -> None:
    store = open_project(archive.address)
    annotate(store, tmp_path, paint())
    store.close()
    folder = tmp_path / "another"
    lacking = open_project(archive.address, "another", serve=False)
    lacking.scheme = LabelScheme(("tubule",), "outside")
    lacking.serve(watch=False)
    wait_until(lambda: lacking.delivered.of(A) is not None and (folder / f"labels/version_1/{A}.nii.gz").exists())
    assert lacking.get_labeled_images() == []
    store = open_project(archive.address, "another")
    assert store.get_labeled_images() == [A]
    assert (stored(folder, "final", A) == paint()).all()


def test_a_series_that_is_no_stack_says_why(
    archive: Orthanc, open_project: Open, tmp_path: Path, image: NDArray[np.int16]
) -> None:
    archive.add_series(tmp_path / "tilted", image, "1.2.3.9", step=(0.5, 0, 2))
    store = open_project(archive.address)
    with pytest.raises(InputError, match="tilted gantry"):
        store.check_image("1.2.3.9")
    assert store.is_unreadable("1.2.3.9")


def test_new_images_appear(archive: Orthanc, open_project: Open, tmp_path: Path, image: NDArray[np.int16]) -> None:
    store = open_project(archive.address)
    archive.add_series(tmp_path / "c", image, "1.2.3.3")
    wait_until(lambda: store.list_images() == [A, B, "1.2.3.3"])


def test_images_that_the_archive_has_no_longer(archive: Orthanc, open_project: Open, tmp_path: Path) -> None:
    store = open_project(archive.address)
    annotate(store, tmp_path, paint())
    archive.stop()
    archive.forget()
    archive.start()
    # What was fetched stays, and what can't be fetched any more goes.
    wait_until(lambda: store.list_images() == [A])
    annotate(store, tmp_path, corrected())
    assert list(store.versions(A)) == [1, 2]
    assert in_archive(archive, tmp_path / "a") == [corrected().tolist()]


def test_several_want_the_same_image(archive: Orthanc, open_project: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_project(archive.address)
    download, asked = store.archive.download, []

    def slowly(*arguments: Any) -> None:
        asked.append(arguments)
        download(*arguments)

    monkeypatch.setattr(store.archive, "download", slowly)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(store.fetch, [A] * 4))
    assert len(asked) == 1

    # Another process is faster.
    def by_another(*arguments: Any) -> None:
        assert in_child(lambda: open_project(archive.address, serve=False).fetch(B)) == 0
        download(*arguments)

    monkeypatch.setattr(store.archive, "download", by_another)
    store.fetch(B)
    assert store.is_fetched(B)
    assert not any(path.name.startswith(".writing") for path in store.folder.iterdir())


def test_a_damaged_list(archive: Orthanc, open_project: Open, tmp_path: Path) -> None:
    store = open_project(archive.address)
    annotate(store, tmp_path, paint())
    store.close()
    (store.folder / "archive.json").write_text('{"address": "", "series": {"../..": "1"}}')
    (store.folder / f"labels/archived/{A}.json").write_text("[]")
    store = open_project(archive.address)
    assert store.list_images() == [A, B]
    wait_until(lambda: is_all_there(store))
    assert list(store.versions(A)) == [1]
    assert len(archive.segmentations()) == 1


def test_the_folder_alone_is_a_project(archive: Orthanc, open_project: Open, tmp_path: Path) -> None:
    store = open_project(archive.address)
    annotate(store, tmp_path, paint())
    store.close()
    alone = open_store(store.folder)
    assert alone.get_labeled_images() == [A]
    alone.checksum(A)
    with pytest.raises(InputError, match="no such file"):
        alone.checksum(B)


def test_patience(archive: Orthanc, open_project: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_project(archive.address, serve=False)
    store._exchange.list_images()
    super(ExchangingStore, store).serve(False)
    monkeypatch.setattr(exchange, "PATIENCE", 0.1)
    (warning,) = [text for text in annotate(store, tmp_path, paint()) if "archive" in text]
    assert warning.endswith(f"{archive.address}: hasn't answered yet")
