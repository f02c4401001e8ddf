"""Uploaded files are decoded in processes of their own: what happens to these must not happen to the server."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import nibabel
import numpy as np
import psutil
import pytest

from lib.core.errors import InputError
from lib.core.volumes.crop import FIELD, Crop
from lib.core.volumes.intensity import Range
from lib.core.volumes.nrrd import NrrdSource
from lib.core.volumes.reading import read_file
from lib.core.volumes.volume import Volume
from lib.server.store import decoding
from project import APP
from saved_volumes import NAN, numbers, save_nifti, save_nrrd
from serving import paint, running, stored, wait_until
from stores import SCHEME, label_info, open_store, put, refusal, submit

LIMIT = 10**9


def decoders(of: int | None = None) -> list[psutil.Process]:
    """The processes of a process that decode files."""
    return running(psutil.Process(of).children(), "lib.server.store.decoding_worker")


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[psutil.Process]:
    """The only process that decodes, at rest; what becomes of it harms no other test."""
    monkeypatch.setattr(decoding, "PROCESSES", 1)
    processes = decoding._Processes()
    monkeypatch.setattr(decoding, "_PROCESSES", processes)
    before = decoders()
    decoding.start()
    (process,) = [one for one in decoders() if one not in before]
    yield process
    processes.end()


@contextmanager
def at_work(process: psutil.Process, task: Callable[[], object]) -> Iterator[None]:
    """Do a task whose decoding begins and doesn't end within the block, unless the block lets it."""
    process.suspend()
    thread = threading.Thread(target=task)
    thread.start()
    wait_until(lambda: decoding._PROCESSES._free.empty())
    try:
        yield
    finally:
        thread.join()


@pytest.mark.parametrize("make", [lambda d: save_nifti(d / "a.nii.gz", numbers((5, 6, 7, 2))), None])
def test_a_decoded_image_is_the_one_in_the_file(tmp_path: Path, make: Callable[[Path], Path] | None) -> None:
    path = make(tmp_path) if make else save_nrrd(tmp_path / "a.nrrd", NAN)
    decoded, read = decoding.decode_image(str(path), LIMIT), read_file(path)
    assert isinstance(decoded, Volume)
    for name in ("array", "affine", "slicer_affine", "outside"):
        np.testing.assert_array_equal(getattr(decoded, name), getattr(read, name))
    assert decoded.array.dtype == read.array.dtype
    assert (decoded.notes, decoded.name, decoded.slicer_reverses) == (read.notes, read.name, read.slicer_reverses)


def test_a_crop_remembers_the_larger_image(tmp_path: Path) -> None:
    path, crop = tmp_path / "a.nrrd", Crop("big", 1, (3, 4, 5), (Range(0.1, 1e30),))
    NrrdSource.write_image(path, numbers()[None], np.eye(4), {FIELD: crop.to_text()})
    assert decoding.decode_image(str(path), LIMIT).crop == read_file(path).crop == crop


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV])
def test_a_crash_is_told_and_the_next_submission_is_stored(
    studies: Path, tmp_path: Path, one_process: psutil.Process, by: signal.Signals
) -> None:
    store = open_store(studies)
    (tmp_path / "temporary").mkdir()
    refused: list[str] = []

    def fail() -> None:
        with refusal(400, f"ended by {by.name}", "Send it again") as found:
            submit(store, tmp_path, paint())
        refused.append(str(found.value))

    with at_work(one_process, fail):
        one_process.send_signal(by)
        with suppress(psutil.NoSuchProcess):
            one_process.resume()
    assert refused
    assert str(tmp_path) not in refused[0]
    assert not list(studies.glob("labels/*/a*"))
    submit(store, tmp_path, paint())
    assert (stored(studies, "final") == paint()).all()
    assert label_info(studies, "final")["version"] == 1


def test_a_process_that_ended_at_rest_is_replaced_unseen(
    studies: Path, tmp_path: Path, one_process: psutil.Process
) -> None:
    one_process.kill()
    one_process.wait()
    submit(open_store(studies), tmp_path, paint())
    assert (stored(studies, "final") == paint()).all()


def test_a_file_that_takes_too_long_is_given_up(
    studies: Path, tmp_path: Path, one_process: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(studies)
    one_process.suspend()
    with monkeypatch.context() as short:
        short.setattr(decoding, "LONGEST", 0.5)
        with refusal(400, r"took more than 0\.5 s"):
            submit(store, tmp_path, paint())
    assert not one_process.is_running()
    submit(store, tmp_path, paint())


def sparse(path: Path, dtype: type[np.generic], shape: tuple[int, int, int]) -> Path:
    """Write a volume of zeros that takes no place on the disk."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    path.write_bytes(header.binaryblock + bytes(4))
    os.truncate(path, 352 + np.prod(shape) * np.dtype(dtype).itemsize)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="the operating system limits no memory")
def test_memory_that_decoding_takes_besides_the_voxels_is_limited(tmp_path: Path) -> None:
    """The label is checked in integers of 64 bits."""
    shape, voxels = (420, 420, 420), 420**3
    label, image = sparse(tmp_path / "l.nii", np.float32, shape), sparse(tmp_path / "i.nii", np.uint8, shape)
    with pytest.raises(InputError, match=r"decoding takes more than 0\.6 GB"):
        decoding.decode_submission(str(label), str(image), [], SCHEME, 8 * voxels)
    with pytest.raises(InputError, match="holds no paint"):
        decoding.decode_submission(str(label), str(image), [], SCHEME, 16 * voxels)


def test_too_large_a_file_is_refused_by_its_header(tmp_path: Path) -> None:
    label = sparse(tmp_path / "l.nii", np.float32, (512, 512, 512))
    with pytest.raises(InputError, match=r"1\.0 GB are allowed for an uploaded file; start .* --conf upload"):
        decoding.decode_image(str(label), LIMIT)


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [("MOST_WAITING", 0, "0 uploaded files are waiting"), ("LONGEST_WAIT", 0.2, r"taken over 0\.2 s")],
)
def test_files_do_not_wait_in_large_numbers_or_for_long(
    studies: Path,
    tmp_path: Path,
    one_process: psutil.Process,
    monkeypatch: pytest.MonkeyPatch,
    limit: str,
    value: float,
    words: str,
) -> None:
    store = open_store(studies)
    with at_work(one_process, lambda: submit(store, tmp_path, paint())):
        with monkeypatch.context() as short:
            short.setattr(decoding, limit, value)
            with refusal(503, words, "again in a minute"):
                submit(store, tmp_path, paint(), "b")
        one_process.resume()
    submit(store, tmp_path, paint(), "b")
    assert (stored(studies, "final") == stored(studies, "final", "b")).all()


def test_many_files_at_once_are_all_decoded(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    with ThreadPoolExecutor(20) as pool:
        versions = list(pool.map(lambda _: submit(store, tmp_path, paint()).info["version"], range(20)))
    assert sorted(versions) == list(range(1, 21))
    assert len(decoders()) <= decoding.PROCESSES


def test_an_image_that_is_there_already_is_the_same(studies: Path, tmp_path: Path) -> None:
    store = open_store(studies)
    again = (tmp_path / "a.nii.gz", studies / "a.nii.gz")
    again[0].write_bytes(again[1].read_bytes())
    assert store.add_image("a", str(again[0]), {}) == "a"
    with refusal(400, "another image has this name"):
        store.add_image("b", str(again[0]), {})


def test_names_that_are_no_text_are_told(studies: Path, tmp_path: Path) -> None:
    header = b"NRRD0004\ntype: uint8\ndimension: 3\nsizes: 2 2 2\nencoding: raw\nSegment0_Name:=\xff\xfe" + b"x" * 5000
    (tmp_path / "a.seg.nrrd").write_bytes(header + b"\n\n" + bytes([1] * 8))
    with refusal(400, "the segment '") as found:
        open_store(studies).save_label("a", str(tmp_path / "a.seg.nrrd"), "final", {})
    assert len(str(found.value).encode()) < 5000


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
def test_a_process_does_not_outlive_its_server() -> None:
    code = "from lib.server.store import decoding; decoding.start(); print('started', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=APP, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "started\n"
        (process,) = psutil.Process(server.pid).children()
        server.kill()
    wait_until(lambda: not process.is_running())


def test_labels_in_the_folder_are_not_limited(studies: Path) -> None:
    """They are the user's own."""
    put(studies, paint())
    store = open_store(studies, largest_upload=1000)
    assert store.versions("a")
