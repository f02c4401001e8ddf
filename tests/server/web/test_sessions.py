"""Sessions: who loses an image when another one comes."""

from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi import HTTPException
from fastapi.testclient import TestClient

from lib.server.web.sessions import MOST, Sessions
from serving import write_image


def put_session(client: TestClient, image: Path) -> str:
    with image.open("rb") as file:
        reply = client.put("/session/", files={"files": (image.name, file)})
    assert reply.status_code == 200
    return str(reply.json()["session_id"])


def test_another_session_ends_the_one_that_was_not_used_for_longest(client: TestClient, tmp_path: Path) -> None:
    image = write_image(tmp_path / "c.nii.gz")
    first, second = (put_session(client, image) for _ in range(2))
    others = [put_session(client, image) for _ in range(MOST - 2)]
    assert client.get(f"/session/{first}", params={"update_ts": True}).status_code == 200
    put_session(client, image)
    assert client.get(f"/session/{second}").status_code == 404
    assert client.get(f"/session/{first}", params={"image": True}).content == image.read_bytes()
    assert all(client.get(f"/session/{one}").status_code == 200 for one in others)


def test_a_session_in_use_stays(tmp_path: Path) -> None:
    sessions, image = Sessions(), write_image(tmp_path / "c.nii.gz")
    ids = [sessions.add(str(image), 0) for _ in range(MOST)]
    with ExitStack() as used:
        paths = [Path(used.enter_context(sessions.using(one))) for one in ids]
        with pytest.raises(HTTPException) as refusal:
            sessions.add(str(image), 0)
        assert refusal.value.status_code == 503
        sessions.remove(ids[0])
        assert all(path.is_file() for path in paths)
    assert not paths[0].exists()
    assert paths[1].is_file()
    sessions.add(str(image), 0)
