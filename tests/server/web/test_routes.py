"""Which requests there are, and what each refuses: never with 500, and nothing stored changes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from httpx import Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib.server.web.uploads import LONGEST_FIELD, MOST_FIELDS
from serving import paint, snapshot, write_image, write_label

ROUTES = {
    "/activelearning/{strategy}": {"post"},
    "/auth/": {"get"},
    "/auth/token": {"post"},
    "/auth/token/valid": {"get"},
    "/batch/infer": {"get", "delete"},
    "/batch/infer/{model}": {"post"},
    "/datastore/": {"get"},
    "/datastore/dataset": {"get"},
    "/datastore/image": {"get", "put"},
    "/datastore/image/info": {"get"},
    "/datastore/label": {"get", "put"},
    "/datastore/label/info": {"get"},
    "/infer/{model}": {"post"},
    "/info/": {"get"},
    "/model/info/{model}": {"get"},
    "/model/{model}": {"get"},
    "/scoring/": {"get", "delete"},
    "/scoring/{method}": {"post"},
    "/session/": {"put"},
    "/session/{session_id}": {"get", "delete"},
    "/train/": {"get", "post", "delete"},
    "/train/{model}": {"post"},
}

CLOSED = [
    ("DELETE", "/datastore/?id=a"),
    ("DELETE", "/datastore/image?id=a"),
    ("DELETE", "/datastore/label?id=a&tag=final"),
    ("DELETE", "/model/sparse_unet3d"),
    ("GET", "/docs"),
    ("GET", "/logs/"),
    ("GET", "/logs/gpu"),
    ("GET", "/ohif/index.html"),
    ("GET", "/proxy/dicom/x"),
    ("GET", "/static/../../../../etc/hostname"),
    ("POST", "/infer/wsi/sparse_unet3d?image=a"),
    ("POST", "/reload"),
    ("PUT", "/datastore/image/info?image=a"),
    ("PUT", "/datastore/label/info?label=a&tag=final"),
    ("PUT", "/datastore/updatelabelinfo?label=a&tag=final"),
    ("PUT", "/model/sparse_unet3d"),
]


@pytest.fixture(autouse=True)
def unchanged(studies: Path, client: TestClient) -> Iterator[None]:
    """No test of this module changes a stored file, and the server answers afterwards."""
    before = snapshot(studies)
    yield
    after = snapshot(studies)
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] != before[name]] == []
    assert client.get("/info/").status_code == 200


def test_there_are_these_requests_and_no_others(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {path: set(methods) for path, methods in paths.items()} == ROUTES
    assert "/activelearning/{strategy}" in client.get("/").text


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_what_monai_label_has_besides_is_closed(client: TestClient, method: str, path: str) -> None:
    reply = client.request(method, path, data={"info": '{"strategy": "x"}'} if method == "PUT" else None)
    assert (reply.status_code, "no such request" in reply.json()["detail"]) == (404, True)


def refused(reply: Response) -> bool:
    """Whether a request was refused with a sentence."""
    assert 400 <= reply.status_code < 500, (reply.status_code, reply.text[:300])
    sentence = reply.json()["detail"]
    assert isinstance(sentence, str)
    assert 3 < len(sentence) < 1200
    return True


@pytest.mark.parametrize("host", ["evil.example.com", "evil.example.com:8000", "", "127.0.0.1.evil.com", "10.255.0.9"])
def test_a_server_has_no_other_names_than_its_own(client: TestClient, host: str) -> None:
    assert client.get("/info/", headers={"host": host}).status_code == 400


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "[::1]:8000", "0.0.0.0:8000", "127.0.0.1:1234", "LAB.example.org"]
)
def test_names_of_this_computer_and_listed_ones_reach_the_server(client: TestClient, host: str) -> None:
    assert client.get("/auth/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example.com"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9000"},
        {"origin": "http://127.0.0.1:8000.evil.com"},
        {"origin": "http://[::1"},
        {"origin": "file://"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_pages_of_other_sites_change_nothing(client: TestClient, headers: dict[str, str]) -> None:
    for method, path in (("POST", "/train/sparse_unet3d"), ("DELETE", "/train/"), ("PUT", "/session/")):
        assert client.request(method, path, headers=headers).status_code == 403
    assert client.get("/info/", headers=headers).status_code == 403
    preflight = {**headers, "access-control-request-method": "POST"}
    assert client.options("/train/sparse_unet3d", headers=preflight).status_code == 403
    assert client.get("/", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}).status_code == 200


def test_pages_of_the_server_itself_may_ask(client: TestClient) -> None:
    own = {"origin": "http://127.0.0.1:8000", "sec-fetch-site": "same-origin"}
    assert client.post("/activelearning/best", json={}, headers=own).status_code == 404


def test_images_are_named_never_paths(client: TestClient, studies: Path, tmp_path: Path) -> None:
    outside = write_image(tmp_path / "secret.nii.gz")
    for image in (str(outside), str(studies / "a.nii.gz"), "/etc/hostname", "../studies/a", "file:///etc/hostname"):
        for reply in (
            client.post("/infer/sparse_unet3d", params={"image": image}),
            client.get("/datastore/image", params={"image": image}),
            client.get("/datastore/label", params={"label": image, "tag": "final"}),
            client.get("/datastore/label", params={"label": "a", "tag": f"../{image}"}),
        ):
            assert reply.status_code == 404
            # The answer doesn't tell which paths exist.
            assert "no image" in reply.text or "no label" in reply.text
        params = json.dumps({"image": image, "image_file": image})
        assert client.post("/infer/sparse_unet3d", data={"params": params}).status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        {"bundle_path": "/tmp"},
        {"max_epochs": float("nan")},
        {"max_epochs": float("inf")},
        {"max_epochs": 10**400},
        {"max_epochs": {}},
        {"max_epochs": [[1]]},
        {"max_minutes": [1] * 1000},
        {"client_id": "\ud800"},
        {"client_id": "a\0b"},
        {"client_id": "x" * 300},
        {"client_id": 5},
        {"start": "line\nbreak"},
        {"versions": 1.5},
        {"\ud800": 1},
        {"x" * 10000: 1},
        [],
        "text",
        5,
    ],
    ids=lambda body: ascii(body)[:40],
)
def test_bodies_that_start_nothing(client: TestClient, body: Any) -> None:
    content, kind = json.dumps(body).encode(), {"content-type": "application/json"}
    for path in ("/train/sparse_unet3d", "/scoring/iou", "/batch/infer/sparse_unet3d", "/activelearning/first"):
        assert client.post(path, content=content, headers=kind).status_code == 422


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff\xfe",
        b'{"max_epochs": NaN}',
        b'{"max_epochs": 1e400}',
        b'{"max_epochs": ' + b"9" * 5000 + b"}",
        b'{"client_id": "\\ud800"}',
        b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b"[" * 50_000 + b"]" * 50_000,
        b" " * 2_000_000,
    ],
    ids=lambda content: repr(content[:12]),
)
def test_json_that_cannot_be_read(client: TestClient, content: bytes) -> None:
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded"):
        reply = client.post("/train/sparse_unet3d", content=content, headers={"content-type": kind})
        assert 400 <= reply.status_code < 500


@pytest.mark.parametrize(
    "params",
    [
        "{",
        "[]",
        '"x"',
        '{"label_info": 5}',
        '{"label_info": [5]}',
        '{"label_info": [{"name": 5}]}',
        '{"label_info": [{"name": "\\ud800"}]}',
        '{"label_info": [{"name": "inside", "idx": 1e400}]}',
        '{"label_info": [' + ",".join(['{"name": "inside"}'] * 2000) + "]}",
        '{"client_id": "\\ud800"}',
        '{"client_id": "' + "x" * 300 + '"}',
        '{"client_id": NaN}',
        '{"client_id": {}}',
        "[" * 100_000,
        "9" * 5000,
        "x" * (LONGEST_FIELD + 1),
    ],
    ids=lambda params: params[:40],
)
def test_params_that_store_nothing(client: TestClient, tmp_path: Path, params: str) -> None:
    file = write_label(tmp_path / "label.nii.gz", paint())
    with file.open("rb") as label:
        reply = client.put(
            "/datastore/label", params={"image": "b"}, data={"params": params}, files={"label": ("l.nii.gz", label)}
        )
    assert refused(reply)
    assert refused(client.post("/infer/next_slices", params={"image": "a"}, data={"params": '{"slices": 1e400}'}))


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/datastore/label", {"image": "x" * 300}),
        ("/datastore/label", {"image": ""}),
        ("/datastore/label", {}),
        ("/datastore/label", {"image": "b", "tag": "x" * 300}),
        ("/datastore/label", {"image": "b", "tag": "version_1"}),
        ("/datastore/label", {"image": "b", "uncompress": "true"}),
        ("/datastore/image", {"image": "../b"}),
        ("/datastore/image", {"image": "é" * 101}),
        ("/datastore/image", {"image": "a\nb"}),
        ("/session/", {"uncompress": "true"}),
        ("/session/", {"expiry": "9" * 5000}),
        ("/session/", {"expiry": "-1"}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_queries_that_store_nothing(client: TestClient, tmp_path: Path, path: str, query: dict[str, str]) -> None:
    field = {"/datastore/label": "label", "/datastore/image": "file", "/session/": "files"}[path]
    label = write_label(tmp_path / "label.nii.gz", paint())
    assert refused(client.put(path, params=query, files={field: ("x.nii.gz", label.read_bytes())}))


@pytest.mark.parametrize(
    "name", ["", "x", "x" + ".a" * 150, "x." + "n" * 300, "../../x.jpg", "x.nii.gz/..", "\x00.dcm", "x.zip", "x.tar"]
)
def test_files_with_other_endings(client: TestClient, name: str) -> None:
    for path, field in (("/datastore/label", "label"), ("/datastore/image", "file"), ("/session/", "files")):
        query = {} if path == "/session/" else {"image": "b"}
        assert refused(client.put(path, params=query, files={field: (name, b"content")}))


@pytest.mark.parametrize("name", ["a.mhd", "a.NHDR", "a.hdr", "a.seg.nhdr", "a.zarr"])
def test_headers_and_folders_are_no_files_to_send(client: TestClient, name: str) -> None:
    for path, field in (("/datastore/label", "label"), ("/datastore/image", "file"), ("/session/", "files")):
        query = {} if path == "/session/" else {"image": "b"}
        reply = client.put(path, params=query, files={field: (name, b"ElementDataFile = b.nii.gz")})
        assert refused(reply)
        assert "takes more than this file; send one that ends in .nii, .nii.gz, .nrrd, .mha" in reply.json()["detail"]


def too_large(reply: Response) -> bool:
    return reply.status_code == 413 and "too large" in reply.json()["detail"]


def test_forms_have_few_fields_and_files_of_limited_size(client: TestClient) -> None:
    content = ("l.nii.gz", b"0" * 3_100_000)
    for path, field in (("/datastore/label", "label"), ("/datastore/image", "file"), ("/session/", "files")):
        query = {} if path == "/session/" else {"image": "b"}
        assert too_large(client.put(path, params=query, files={field: content}))
        many = {f"field {number}": "x" for number in range(MOST_FIELDS + 1)}
        assert refused(client.put(path, params=query, data=many, files={field: ("l.nii.gz", b"x")}))
    assert too_large(client.post("/train/sparse_unet3d", content=b"x" * 1_100_000))


@pytest.mark.parametrize("charset", ["punycode", "unicode_escape", "idna", "utf-16"])
def test_text_is_utf_8(client: TestClient, charset: str) -> None:
    kind = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
    for path in ("/auth/token", "/infer/sparse_unet3d?image=a"):
        assert client.post(path, content=b"--x--", headers=kind).status_code == 415


def test_routes_without_files_take_small_bodies_of_any_type(client: TestClient) -> None:
    for kind in ("application/json", "multipart/form-data; boundary=x"):
        for path in ("/auth/token", "/train/sparse_unet3d", "/activelearning/first"):
            assert too_large(client.post(path, content=b"x" * 1_100_000, headers={"content-type": kind}))


def test_a_body_without_a_stated_length_is_limited_too(client: TestClient) -> None:
    parts = (b" " * 100_000 for _ in range(12))
    reply = client.post("/train/sparse_unet3d", content=parts, headers={"content-type": "application/json"})
    assert too_large(reply)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=300),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)
OPTIONS = ["client_id", "label_info", "max_epochs", "max_minutes", "start", "slice", "slices", "label", "gpus"]
OTHERS = ["result_extension", "model", "image", "image_file", "bundle_path", "versions", "params", "strategy", "device"]
KEYS = st.sampled_from([*OPTIONS, *OTHERS])
BODIES = JSON | st.dictionaries(KEYS, JSON, max_size=5)
TEXTS = st.text(max_size=40) | st.sampled_from(["a", "b", "final", "version_1", "../a", "%00", "sparse_unet3d", "iou"])


@settings(max_examples=150, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=BODIES, first=TEXTS, second=TEXTS)
def test_any_request_is_answered(client: TestClient, body: Any, first: str, second: str) -> None:
    """Whatever is sent: no answer is 500. What trains or segments is left out, because it would take long."""
    text = json.dumps(body)
    sound = {"content-type": "application/json"}
    named = {"image": first, "label": first, "tag": second}
    for reply in (
        client.post("/activelearning/other", content=text, headers=sound),
        client.post("/train/other", content=text, headers=sound),
        client.post("/scoring/other", content=text, headers=sound),
        client.post("/batch/infer/other", content=text, headers=sound),
        client.post("/infer/other", params={"image": "a"}, data={"params": text}),
        client.post("/infer/accept_slice", params={"image": first}, data={"params": text}),
        client.put("/datastore/label", params=named, data={"params": text}, files={"label": (second, b"x")}),
        client.put("/datastore/image", params={"image": first}, data={"params": text}, files={"file": (first, b"x")}),
        client.get("/datastore/label", params={"label": first, "tag": second}),
        client.get("/datastore/label/info", params={"label": first, "tag": second}),
        client.get("/datastore/image", params={"image": first}),
        client.get("/datastore/image/info", params={"image": first}),
        client.get("/datastore/", params={"output": first}),
        client.get("/datastore/dataset", params={"limit_cases": first}),
        client.get(f"/session/{quote(first, safe='')}"),
        client.post("/auth/token", data={"username": first, "password": second}),
    ):
        assert reply.status_code < 500, (reply.request.url, text, reply.text)
