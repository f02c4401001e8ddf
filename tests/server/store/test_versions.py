"""Versions over HTTP: several annotators at once, and versions restored while the server runs."""

import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from monailabel.client import MONAILabelClient
from numpy.typing import NDArray

from serving import APP, SEGMENTS, Server, as_slicer_sends, paint, stored, write_image, write_label
from stores import index_of

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    for seed, name in enumerate(("a", "b", "c", "d", "e")):
        write_image(folder / f"{name}.nii.gz", seed=seed)
    return folder


@pytest.fixture(scope="module")
def server(served: Path, start_server: Callable[..., Server]) -> Server:
    return start_server(served).wait()


def submit(server: Server, folder: Path, client_id: str, image: str, annotation: NDArray[np.uint8]) -> dict[str, Any]:
    """Submit as the plugin of one annotator does."""
    label, params = as_slicer_sends(annotation)
    file = write_label(folder / f"label of {client_id}.nii.gz", label)
    client = MONAILabelClient(server.url, tmpdir=str(folder), client_id=client_id)
    return dict(client.save_label(image, str(file), params=params))


def info_of(server: Server, image: str, tag: str) -> dict[str, Any]:
    return dict(server.get("/datastore/label/info", params={"label": image, "tag": tag}).json())


def downloaded(server: Server, image: str, tag: str) -> NDArray[np.uint8]:
    return np.asarray(nibabel.load(server.client.download_label(image, tag)).dataobj)


def annotations(*words: object) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [sys.executable, APP, "annotations", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_label_info_describes_the_version(server: Server, tmp_path: Path) -> None:
    fewer = paint()
    fewer[6] = 0
    began = datetime.now(timezone.utc) - timedelta(seconds=1)
    submit(server, tmp_path, "alice", "b", paint())
    submit(server, tmp_path, "bob", "b", fewer)
    expected = {
        "version_1": (1, "alice", [[6, 10], [5, 9], [4, 6]]),
        "version_2": (2, "bob", [[10], [5, 9], [4, 6]]),
        "final": (2, "bob", [[10], [5, 9], [4, 6]]),
        "original": (2, "bob", [[10], [5, 9], [4, 6]]),
    }
    for tag, (version, client, slices) in expected.items():
        info = info_of(server, "b", tag)
        assert (info["version"], info["client_id"]) == (version, client)
        assert info["statistics"]["annotated_slices"] == slices
        assert began <= datetime.fromisoformat(info["time"]) <= datetime.now(timezone.utc)


def test_the_second_of_two_annotators_is_told_of_the_first(server: Server, tmp_path: Path) -> None:
    # Both submit many times, on the same image at the same moment, each with a slice that the other lacks.
    for round_ in range(6):
        annotators = {"alice": (0, 3 + round_), "bob": (2, 9)}
        replies: dict[str, dict[str, Any]] = {}
        ready = threading.Barrier(len(annotators))

        def work(name: str, axis: int, index: int, replies: dict[str, Any], ready: threading.Barrier) -> None:
            annotation = np.zeros_like(paint())
            np.moveaxis(annotation, axis, 0)[index] = 3
            ready.wait()
            replies[name] = submit(server, tmp_path, name, "c", annotation)

        threads = [
            threading.Thread(target=work, args=(name, *place, replies, ready)) for name, place in annotators.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        first, second = sorted(annotators, key=lambda name: replies[name]["version"])
        assert [replies[name]["version"] for name in (first, second)] == [2 * round_ + 1, 2 * round_ + 2]
        (warning,) = [text for text in replies[second]["warnings"] if f"'{first}'" in text]
        info = info_of(server, "c", f"version_{2 * round_ + 1}")
        assert f"the previous version, {2 * round_ + 1}, came from another client" in warning
        assert datetime.fromisoformat(info["time"]).strftime("%Y-%m-%d %H:%M UTC") in warning
        axis, index = annotators[first]
        assert (
            "this version doesn't have: axis {} ({}): {};".format(
                axis, {0: "L-R, sagittal", 2: "I-S, axial"}[axis], index
            )
            in warning
        )
        # Both are kept; the newest counts.
        for number, name in ((2 * round_ + 1, first), (2 * round_ + 2, second)):
            axis, index = annotators[name]
            kept = downloaded(server, "c", f"version_{number}")
            assert set(np.argwhere(kept)[:, axis]) == {index}
        assert (downloaded(server, "c", "final") == kept).all()
        assert info_of(server, "c", "original")["version"] == 2 * round_ + 2


@pytest.mark.parametrize("client_id", ["user-xyz", ""])
def test_clients_without_a_name_are_told_too(server: Server, tmp_path: Path, client_id: str) -> None:
    submit(server, tmp_path, client_id, "e", paint())
    reply = submit(server, tmp_path, client_id, "e", paint())
    (warning,) = reply["warnings"]
    assert f"the previous version, {reply['version'] - 1}, came 20" in warning
    assert "if it wasn't you" in warning
    assert submit(server, tmp_path, "alice", "e", paint())["warnings"] != []
    assert submit(server, tmp_path, "alice", "e", paint())["warnings"] == []


def test_many_annotators_at_once(server: Server, served: Path, tmp_path: Path) -> None:
    replies = []

    def work(name: str) -> None:
        for number in range(3):
            annotation = paint()
            annotation[0, 0, int(name)], annotation[0, 1, number] = 1, 2
            replies.append(submit(server, tmp_path, name, "d", annotation))

    threads = [threading.Thread(target=work, args=(str(worker),)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reply["version"] for reply in replies) == list(range(1, 19))
    assert len({stored(served, f"version_{number}", "d").tobytes() for number in range(1, 19)}) == 18
    assert (stored(served, "final", "d") == stored(served, "version_18", "d")).all()
    labels = index_of(served)["d"]["labels"]
    assert {tag: label["info"]["version"] for tag, label in labels.items()} == {
        **{f"version_{number}": number for number in range(1, 19)},
        "final": 18,
        "original": 18,
    }


def test_a_version_is_restored_while_the_server_runs(server: Server, served: Path, tmp_path: Path) -> None:
    second = paint()
    second[2], second[6] = 3, 0
    submit(server, tmp_path, "alice", "a", paint())
    submit(server, tmp_path, "alice", "a", second)
    before = {tag: (served / f"labels/{tag}/a.nii.gz").read_bytes() for tag in ("version_1", "version_2")}

    done = annotations("restore", "a", 1, "--studies", served)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Version 3 of a is version 1 restored" in done.stdout
    server.wait_until(lambda: info_of(server, "a", "final").get("version") == 3)

    # What Next Sample gives to Slicer: the image, and the label under `original` with its names.
    original = server.client.datastore()["objects"]["a"]["labels"]["original"]["info"]
    assert original["version"] == 3
    assert list(original["params"]["label_names"]) == SEGMENTS
    assert (downloaded(server, "a", "original") == np.where(paint() > 0, paint() + 3, 0)).all()
    assert (downloaded(server, "a", "final") == paint()).all()
    assert info_of(server, "a", "version_3")["restored_version"] == 1
    assert {tag: (served / f"labels/{tag}/a.nii.gz").read_bytes() for tag in before} == before

    # The annotator submits what was open in Slicer, and is told of the restored version.
    reply = submit(server, tmp_path, "alice", "a", second)
    assert reply["version"] == 4
    (warning,) = [text for text in reply["warnings"] if "version 3" in text]
    assert "is version 1, restored 20" in warning
    assert "this version doesn't have: axis 0 (L-R, sagittal): 6; version 3 still has them" in warning
    listed = annotations("list", "--studies", served).stdout
    assert "version 4" in listed
    assert "version 1 restored" in listed
