"""Requests to a real archive, and to servers that are none, or slow, or send too much."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from dicom_series import write_series
from lib.core.volumes.reading import read_volume
from lib.server.dicomweb import archive as module
from lib.server.dicomweb.archive import Archive
from lib.server.dicomweb.errors import ArchiveError, Refused
from orthanc import Orthanc, free_port, needs_orthanc

LARGEST = 1 << 28

Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], str]]:
    """Start servers that answer everything in one way; return the address."""
    started: list[ThreadingHTTPServer] = []

    def start(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(self)

            def do_POST(self) -> None:
                self.rfile.read1()
                answer(self)

            def log_message(self, *_: object) -> None:
                pass

        started.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        started[-1].daemon_threads = True
        threading.Thread(target=started[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{started[-1].server_port}/dicom-web"

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def send(body: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@needs_orthanc
def test_stacks_are_listed_and_fetched(orthanc: Orthanc, tmp_path: Path, image: NDArray[np.int16]) -> None:
    orthanc.add_series(tmp_path / "a", image, "1.2.3.1")
    orthanc.add_series(tmp_path / "b", image, "1.2.3.2", Modality="MR", StudyInstanceUID="1.2.4")
    orthanc.add_series(tmp_path / "c", image[..., :1], "1.2.3.3")
    orthanc.add_series(tmp_path / "d", image, "1.2.3.4", Modality="US")
    archive = Archive(f"{orthanc.address}", LARGEST)
    assert archive.series() == {"1.2.3.1": "1.2.3", "1.2.3.2": "1.2.4"}
    assert Archive(orthanc.address, LARGEST, only={"Modality": "US"}).series() == {"1.2.3.4": "1.2.3"}
    (tmp_path / "got").mkdir()
    archive.download("1.2.4", "1.2.3.2", tmp_path / "got")
    files = sorted((tmp_path / "got").iterdir())
    assert [pydicom.dcmread(file).SOPInstanceUID for file in files] == [file.stem for file in files]
    fetched, written = read_volume(tmp_path / "got"), read_volume(tmp_path / "b")
    assert (fetched.array == written.array).all()
    assert (fetched.affine == written.affine).all()


@needs_orthanc
def test_all_pages_are_read(
    orthanc: Orthanc, tmp_path: Path, image: NDArray[np.int16], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    for number in range(5):
        orthanc.add_series(tmp_path / f"{number}", image[..., :3], f"1.2.3.{number}")
    archive = Archive(orthanc.address, LARGEST)
    assert len(archive.series()) == 5
    (tmp_path / "got").mkdir()
    archive.download("1.2.3", "1.2.3.4", tmp_path / "got")
    assert len(list((tmp_path / "got").iterdir())) == 3
    monkeypatch.setattr(module, "MOST_SERIES", 3)
    assert len(archive.series()) == 3


@needs_orthanc
def test_a_file_is_stored_once(orthanc: Orthanc, tmp_path: Path, image: NDArray[np.int16]) -> None:
    (file, *_) = sorted(write_series(tmp_path / "a", image, series="1.2.3.1").iterdir())
    archive = Archive(orthanc.address, LARGEST)
    for _ in range(2):
        archive.store(pydicom.dcmread(file))
    assert len(orthanc.client.search_for_instances()) == 1


@needs_orthanc
def test_a_login(tmp_path: Path) -> None:
    orthanc = Orthanc(tmp_path / "orthanc", ("ann", "secret")).start()
    try:
        assert Archive(orthanc.address, LARGEST, ("ann", "secret")).series() == {}
        for login in (None, ("ann", "wrong")):
            with pytest.raises(ArchiveError, match=r"401 Unauthorized.*MONAI_LABEL_DICOMWEB_PASSWORD") as error:
                Archive(orthanc.address, LARGEST, login).series()
            assert not isinstance(error.value, Refused)
    finally:
        orthanc.stop()


@needs_orthanc
@pytest.mark.parametrize(("place", "said"), [("/dicom", "404 Not Found"), ("", "400 Bad Request")])
def test_another_place_of_the_server(orthanc: Orthanc, place: str, said: str) -> None:
    with pytest.raises(ArchiveError, match=f"(?s){orthanc.address[:-10]}.*({said}).*often ends in /dicom-web"):
        Archive(orthanc.address.removesuffix("/dicom-web") + place, LARGEST).series()


@needs_orthanc
def test_a_series_larger_than_the_limit(orthanc: Orthanc, tmp_path: Path, image: NDArray[np.int16]) -> None:
    orthanc.add_series(tmp_path / "a", image, "1.2.3.1")
    (tmp_path / "got").mkdir()
    with pytest.raises(Refused, match=r"fetch series 1\.2\.3\.1.*larger than 5e-06 GB.*--conf upload"):
        Archive(orthanc.address, 5000).download("1.2.3", "1.2.3.1", tmp_path / "got")


def test_nobody_listens() -> None:
    with pytest.raises(ArchiveError, match=r"can't be reached to search for series.*check the address"):
        Archive(f"http://127.0.0.1:{free_port()}/dicom-web", LARGEST).series()


@pytest.mark.parametrize(
    ("body", "headers", "said"),
    [
        (b"<html>Doe</html>", {}, "no DICOMweb"),
        (b'{"Doe": 1}', {}, "no DICOMweb"),
        (b'["Doe"]', {}, "no DICOMweb"),
        (b'[{"0020000E": {"Value": ["../Doe"]}, "0020000D": {"Value": ["1.2"]}}]', {}, "no DICOMweb"),
        (b"\xff\xfe", {"Content_Encoding": "gzip"}, "can't be reached|no DICOMweb"),
    ],
)
def test_answers_that_are_no_dicomweb(
    serve: Callable[[Answer], str], tmp_path: Path, body: bytes, headers: dict[str, str], said: str
) -> None:
    archive = Archive(serve(send(body, **headers)), LARGEST)
    for ask in (archive.series, lambda: archive.download("1.2.3", "1.2.3.1", tmp_path)):
        with pytest.raises(ArchiveError, match=said) as error:
            ask()
        assert "Doe" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("status", [500, 503, 599])
def test_an_archive_that_fails(serve: Callable[[Answer], str], status: int) -> None:
    with pytest.raises(ArchiveError, match=f"it answers {status}") as error:
        Archive(serve(send(b"Doe", status)), LARGEST).series()
    assert not isinstance(error.value, Refused)
    assert "Doe" not in str(error.value)


def test_redirections_are_not_followed(serve: Callable[[Answer], str]) -> None:
    with pytest.raises(ArchiveError, match="TooManyRedirects"):
        Archive(serve(send(b"", 302, Location="http://127.0.0.1:1/")), LARGEST).series()


def test_an_answer_without_end(serve: Callable[[Answer], str]) -> None:
    def forever(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            while True:
                handler.wfile.write(bytes(1 << 16))

    archive = Archive(serve(forever), LARGEST)
    with pytest.raises(Refused, match="larger than"), archive._asking("ask", 1 << 20) as client:
        client.search_for_series()


def test_a_slow_answer_ends(serve: Callable[[Answer], str]) -> None:
    ended = threading.Event()

    def slowly(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        with contextlib.suppress(OSError):
            while not ended.wait(0.05):
                handler.wfile.write(b" ")

    archive = Archive(serve(slowly), LARGEST)
    began = time.monotonic()
    with pytest.raises(ArchiveError, match="Timeout"), archive._asking("ask", seconds=0.5) as client:
        client.search_for_series()
    assert time.monotonic() - began >= 0.5
    ended.set()


def test_what_is_not_confirmed_is_not_stored(
    serve: Callable[[Answer], str], tmp_path: Path, image: NDArray[np.int16]
) -> None:
    (file, *_) = sorted(write_series(tmp_path / "a", image, series="1.2.3.1").iterdir())
    instance = pydicom.dcmread(file)
    failed = b'{"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [%d]}}]}}'
    as_json = {"Content_Type": "application/dicom+json"}
    for body, said in ((b"", "doesn't confirm"), (b"<html>", "doesn't confirm|no DICOMweb"), (failed % 0x0110, "0110")):
        with pytest.raises(ArchiveError, match=said):
            Archive(serve(send(body, **(as_json if body else {}))), LARGEST).store(instance)
    # It is there already.
    Archive(serve(send(failed % 0x0111, **as_json)), LARGEST).store(instance)
