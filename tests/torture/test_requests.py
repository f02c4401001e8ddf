"""The short form of ``python -m torture requests``."""

from pathlib import Path

import pytest

from torture import bad_requests
from torture.bad_requests import by_hand

SPEC = {
    "paths": {
        "/label/{tag}": {
            "put": {
                "parameters": [{"name": "image", "in": "query"}, {"name": "tag", "in": "path"}],
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Body"}}}},
            }
        }
    },
    "components": {"schemas": {"Body": {"properties": {"client_id": {}}}}},
}


def test_each_place_is_tried() -> None:
    kinds = [request.kind for request in by_hand(SPEC)]
    assert len(kinds) == len(set(kinds))
    for place in ("path", "image", "body", "client_id", "bundle_path"):
        assert f"PUT /label/{{tag}}, {place} is half a pair" in kinds


@pytest.mark.slow
def test_bad_requests_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: bad_requests.VALUES[name] for name in ("a huge number", "half a pair")}
    monkeypatch.setattr(bad_requests, "VALUES", few)
    outcome = bad_requests.measure(tmp_path, generated=50)
    assert not outcome.faults
    assert outcome.facts["kinds"] > 100
