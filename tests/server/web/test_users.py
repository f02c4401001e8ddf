"""Logins, as 3D Slicer's plugin and programs make them."""

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import jwt
import pytest
from fastapi.testclient import TestClient
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException

from lib.core.errors import InputError
from lib.server.web.access import MOST_FAILURES
from lib.server.web.serving import web_application
from lib.server.web.users import Users
from main import SparseUNet3D
from serving import NAMED, Server, paint, write_image, write_label

PASSWORD = "correct horse"


@pytest.fixture
def users(tmp_path: Path) -> Users:
    """Anna, with a password."""
    users = Users(tmp_path)
    users.add("anna", PASSWORD)
    return users


@pytest.fixture
def guarded(app: SparseUNet3D, users: Users) -> TestClient:
    """A client of a server with users."""
    return TestClient(web_application(app, users), base_url="http://127.0.0.1", raise_server_exceptions=False)


def log_in(client: TestClient, name: str = "anna", password: str = PASSWORD) -> dict[str, str]:
    reply = client.post("/auth/token", data={"username": name, "password": password, "grant_type": "password"})
    assert reply.status_code == 200, reply.text
    assert reply.json()["token_type"] == "bearer"
    return {"authorization": f"bearer {reply.json()['access_token']}"}


def test_only_users_get_an_answer(guarded: TestClient) -> None:
    open_paths = {"/auth/", "/auth/token"}
    paths = guarded.get("/openapi.json").json()["paths"]
    for path, methods in paths.items():
        address = path.format(strategy="first", model="sparse_unet3d", method="iou", session_id="0" * 32)
        for method in methods if path not in open_paths else ():
            options = [one["name"] for one in methods[method].get("parameters", ()) if one["in"] == "query"]
            query = {name: "a" for name in options if name in ("image", "label", "tag")}
            reply = guarded.request(
                method, address, params=query, files={"file": ("l.nii.gz", b"")} if method == "put" else None
            )
            assert (reply.status_code, "log in" in reply.text) == (401, True), (method, path, reply.text)
    assert guarded.get("/auth/").json()["enabled"] is True
    assert guarded.get("/info/", headers=log_in(guarded)).status_code == 200


def test_tokens_of_others_are_refused(guarded: TestClient, users: Users) -> None:
    token = log_in(guarded)["authorization"].split()[1]
    claims = jwt.decode(token, options={"verify_signature": False})
    for forged in (
        jwt.encode(claims, "x" * 64, algorithm="HS256"),
        jwt.encode(claims, None, algorithm="none"),
        jwt.encode({**claims, "exp": 1}, users._content().secret, algorithm="HS256"),
        jwt.encode({"sub": "anna", "exp": claims["exp"]}, users._content().secret, algorithm="HS256"),
        jwt.encode({**claims, "sub": "nobody"}, users._content().secret, algorithm="HS256"),
        token[:-4],
        "",
        "x" * 5000,
        PASSWORD,
    ):
        reply = guarded.get("/info/", headers={"authorization": f"Bearer {forged}"})
        assert reply.status_code == 401
    assert guarded.get("/auth/token/valid", headers=log_in(guarded)).json() == {"username": "anna"}


def test_a_new_password_and_a_removal_end_logins(guarded: TestClient, users: Users) -> None:
    first = log_in(guarded)
    users.add("anna", "another one")
    assert guarded.get("/info/", headers=first).status_code == 401
    second = log_in(guarded, password="another one")
    users.add("bob", PASSWORD)
    users.remove("anna")
    assert guarded.get("/info/", headers=second).status_code == 401
    users.remove("bob")
    # Without users nobody gets in; without the file everybody does.
    assert guarded.get("/info/").status_code == 401
    users.path.unlink()
    assert guarded.get("/info/").status_code == 200


def test_wrong_passwords_are_slowed_down(guarded: TestClient) -> None:
    for _ in range(MOST_FAILURES):
        assert guarded.post("/auth/token", data={"username": "anna", "password": "wrong"}).status_code == 401
    assert guarded.post("/auth/token", data={"username": "anna", "password": PASSWORD}).status_code == 429
    for name, password in (("nobody", PASSWORD), ("", ""), ("bob", "x" * 256)):
        assert guarded.post("/auth/token", data={"username": name, "password": password}).status_code in (401, 422)


def test_programs_have_tokens(guarded: TestClient, users: Users) -> None:
    token = users.add_token("script")
    assert token not in users.path.read_text()
    assert guarded.get("/auth/token/valid", headers={"authorization": f"Bearer {token}"}).json()["username"] == "script"
    assert guarded.post("/auth/token", data={"username": "script", "password": token}).status_code == 401


def test_users_added_at_the_same_time_are_all_kept(users: Users) -> None:
    threads = [threading.Thread(target=Users(users.path.parent).add_token, args=(f"{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert users.names() == [*map(str, range(8)), "anna"]


def test_a_program_does_not_take_a_persons_name(users: Users) -> None:
    with pytest.raises(InputError, match="a person with a password"):
        users.add_token("anna")
    assert users.log_in("anna", PASSWORD)


def test_a_link_to_nowhere_lets_nobody_in(guarded: TestClient, users: Users) -> None:
    users.path.unlink()
    users.path.symlink_to(users.path.parent / "elsewhere")
    assert guarded.get("/info/").status_code == 401


def test_the_file_of_users_is_private_and_holds_no_password(users: Users) -> None:
    assert PASSWORD not in users.path.read_text()
    assert "$argon2id$" in users.path.read_text()
    if os.name == "posix":
        assert stat.S_IMODE(users.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"secret": "x", "users": {"a": {"password": 5}}}', "\x00"])
def test_a_damaged_file_lets_nobody_in(guarded: TestClient, users: Users, content: str) -> None:
    users.path.write_text(content)
    assert guarded.get("/info/", headers={"authorization": "Bearer x"}).status_code == 503
    assert guarded.get("/info/").status_code == 401
    with pytest.raises(InputError, match=r"users\.json"):
        users.add("bob", PASSWORD)


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("", PASSWORD),
        ("a\nb", PASSWORD),
        ("x" * 300, PASSWORD),
        ("a", "short"),
        ("a", "x" * 300),
        ("a", "tab\tinside"),
    ],
)
def test_names_and_passwords_that_cannot_be_used(users: Users, name: str, password: str) -> None:
    before = users.path.read_bytes()
    with pytest.raises(InputError):
        users.add(name, password)
    assert users.path.read_bytes() == before


@pytest.mark.slow
def test_the_plugins_client_logs_in_and_signs(tmp_path: Path, start_server: Callable[..., Server]) -> None:
    studies = tmp_path / "studies"
    studies.mkdir()
    write_image(studies / "a.nii.gz")
    Users(studies).add("anna", PASSWORD)
    server = start_server(studies)
    server.wait_until(lambda: "Uvicorn running" in server.log.read_text())
    client = MONAILabelClient(server.url, str(tmp_path), client_id="somebody else")
    assert client.auth_enabled()
    with pytest.raises(MONAILabelClientException):
        client.info()
    assert server.get("/datastore/image", params={"image": "a"}).status_code == 401
    client.update_auth(client.auth_token("anna", PASSWORD))
    assert client.auth_valid_token()
    # The plugin downloads the image without its token.
    assert client.next_sample("first", {})["id"] == "a"
    assert server.get("/datastore/image", params={"image": "a"}).content == (studies / "a.nii.gz").read_bytes()
    assert server.get("/datastore/image", params={"image": "other"}).status_code == 401
    label = write_label(tmp_path / "label.nii.gz", paint())
    client.save_label("a", str(label), params=dict(NAMED))
    assert client.datastore()["objects"]["a"]["labels"]["final"]["info"]["client_id"] == "anna"
