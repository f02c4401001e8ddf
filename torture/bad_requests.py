"""Requests that nobody should send, by hand and by chance: none is answered by 500, and the store stays as it is."""

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests

from serving import PATIENCE, Server, snapshot

from .annotator import Annotators, start_server
from .bombing import UPLOAD
from .outcome import Outcome, Row, announce
from .processes import memory_of

ROW = Row(
    "requests",
    "bad requests: at least 400 kinds by hand, 5 000 generated from the app's OpenAPI",
    "0 × 500, 0 crashes, store unchanged, memory ≤ 1.2 × the largest allowed upload more",
)

VALUES: dict[str, Any] = {
    "nothing": None,
    "a truth": True,
    "a number": 5,
    "a huge number": 10**400,
    "not a number": float("nan"),
    "infinity": float("-inf"),
    "half": 1.5,
    "a list": [[1]],
    "many": [1] * 2000,
    "an object": {"a": {"a": 1}},
    "empty": "",
    "long": "x" * 300,
    "very long": "x" * 20_000,
    "half a pair": "\ud800",
    "a zero byte": "a\0b",
    "two lines": "a\nb",
    "a path": "../../etc/passwd",
    "a format": "%s%n{0}${x}",
}
"""What is put into each place of a request, by what it is."""

TEXTS = [value for value in VALUES.values() if isinstance(value, str)] + ["a", "final", "9" * 5000, "-1", "%00", "é"]
EXTRA = ("bundle_path", "versions", "strategy", "image_file", "run_sync", "__proto__")


@dataclass
class Request:
    """A request, with the kind that it stands for."""

    kind: str
    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    body: Any = None
    form: dict[str, str] | None = None
    file: str | None = None

    def send(self, server: Server) -> requests.Response:
        """Send it."""
        url = server.url + requests.utils.quote(self.path.encode(errors="replace"), safe="/")
        known: dict[str, Any] = {"params": {key: _sendable(text) for key, text in self.query.items()}}
        if self.file:
            known |= {"files": {self.file: ("x.nii.gz", b"content")}}
        if self.form is not None:
            known |= {"data": {key: _sendable(text) for key, text in self.form.items()}}
        elif self.body is not None:
            known |= {"data": json.dumps(self.body).encode(), "headers": {"content-type": "application/json"}}
        return requests.request(self.method, url, timeout=PATIENCE, **known)


def _sendable(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def measure(folder: Path, generated: int, seed: int = 0) -> Outcome:
    """Send all kinds made by hand, and generated requests.

    Args:
        folder: an empty one.
        generated: how many to generate.
        seed: of the choices.
    """
    server = start_server(folder, ("a", "b"), upload=str(UPLOAD / 1e9))
    process, outcome, kinds, statuses = psutil.Process(server.process.pid), Outcome(), set[str](), dict[int, int]()
    people, chance = Annotators(server, folder, ("a",)), random.Random(seed)
    people.submit("client", chance)
    spec = server.get("/openapi.json").json()
    first = most = memory_of(process)
    before = _labels(server)
    try:
        for number, request in enumerate(itertools.chain(by_hand(spec), by_chance(spec, generated, chance))):
            try:
                reply = request.send(server)
            except (requests.RequestException, ValueError) as error:
                outcome.faults.append(f"{request.kind}: {error!r}"[:300])
                server.get("/info/").raise_for_status()
                continue
            kinds.add(request.kind)
            statuses[reply.status_code] = statuses.get(reply.status_code, 0) + 1
            if reply.status_code >= 500 and reply.status_code not in (503, 507):
                outcome.faults.append(f"{request}: {reply.status_code}: {reply.text[:200]}"[:600])
            most = max(most, memory_of(process))
            if number % 1000 == 999:
                announce(f"requests: {number + 1}, {len(outcome.faults)} faults")
        if _labels(server) != before:
            outcome.faults.append("a stored annotation changed")
        outcome.faults += [*people.faults, *people.ledger.faults(server.studies, thorough=True)]
        people.submit("client", chance).raise_for_status()
    finally:
        server.process.kill()
        server.process.wait()
    if most > first + 1.2 * UPLOAD:
        outcome.faults.append(f"memory grew from {first / 1e6:.0f} to {most / 1e6:.0f} MB")
    by_hand_kinds = len(kinds - {"generated"})
    answers = ", ".join(f"{count} × {status}" for status, count in sorted(statuses.items()))
    outcome.facts = {"kinds": by_hand_kinds, "generated": generated, "answers": statuses, "memory": [first, most]}
    outcome.measured = (
        f"{by_hand_kinds} kinds and {generated} generated requests; answers {answers}; the server took "
        f"{first / 1e6:.0f} MB at first and {most / 1e6:.0f} MB at most; `--conf upload {UPLOAD / 1e9:g}`"
    )
    return outcome


def _labels(server: Server) -> dict[str, bytes]:
    return {name: content for name, content in snapshot(server.studies).items() if name.startswith("labels/")}


def operations(spec: dict[str, Any]) -> Iterator[tuple[str, str, list[str], dict[str, list[str]]]]:
    """Yield of each request in an OpenAPI: method, path, names in its query, and in its body by content type."""
    for path, methods in spec["paths"].items():
        for method, about in methods.items():
            query = [one["name"] for one in about.get("parameters", ()) if one["in"] == "query"]
            bodies = {}
            for kind, content in about.get("requestBody", {}).get("content", {}).items():
                bodies[kind] = list(_fields(content["schema"], spec))
            yield method.upper(), path, query, bodies


def _fields(schema: dict[str, Any], spec: dict[str, Any]) -> Iterator[str]:
    for part in (schema, *schema.get("anyOf", ()), *schema.get("allOf", ())):
        if "$ref" in part:
            part = spec["components"]["schemas"][part["$ref"].rpartition("/")[2]]
        yield from part.get("properties", {})


def by_hand(spec: dict[str, Any]) -> Iterator[Request]:
    """Yield one request for each place of each request and each value: one kind each."""
    for method, path, query, bodies in operations(spec):
        name, filled = f"{method} {path}", _filled(path, "other")
        yield Request(f"{name}, unknown option", method, filled, {"uncompress": "true"})
        for what, value in VALUES.items():
            text = value if isinstance(value, str) else json.dumps(value)
            if "{" in path:
                yield Request(f"{name}, path is {what}", method, _filled(path, text[:3000] or "x"))
            for option in query:
                yield Request(f"{name}, {option} is {what}", method, filled, {option: text[:8000]})
            for kind, fields in bodies.items():
                if kind == "application/json":
                    yield Request(f"{name}, body is {what}", method, filled, body=value)
                    for key in (*fields, *EXTRA):
                        yield Request(f"{name}, {key} is {what}", method, filled, body={key: value})
                    continue
                file = next((key for key in fields if key in ("file", "files", "label")), None)
                for key in (*fields, *EXTRA):
                    form = {key: text}
                    yield Request(f"{name}, {key} is {what}", method, filled, {"image": "a"}, form=form, file=file)


def by_chance(spec: dict[str, Any], count: int, chance: random.Random) -> Iterator[Request]:
    """Yield requests with several wrong things each. What would train or segment has a name that doesn't exist."""
    known = list(operations(spec))
    for _ in range(count):
        method, path, query, bodies = chance.choice(known)
        options = {option: chance.choice(TEXTS)[:8000] for option in query if chance.random() < 0.6}
        request = Request("generated", method, _filled(path, chance.choice(TEXTS)[:3000] or "x"), options)
        if bodies:
            kind, fields = chance.choice(list(bodies.items()))
            names = chance.sample([*fields, *EXTRA], chance.randint(0, 3))
            body = {name: _value(chance, 3) for name in names}
            if kind == "application/json":
                request.body = body if chance.random() < 0.8 else _value(chance, 4)
            else:
                request.form = {
                    key: value if isinstance(value, str) else json.dumps(value) for key, value in body.items()
                }
                request.file = next((key for key in fields if key in ("file", "files", "label")), None)
        yield request


def _value(chance: random.Random, depth: int) -> Any:
    if depth and chance.random() < 0.3:
        if chance.random() < 0.5:
            return [_value(chance, depth - 1) for _ in range(chance.randint(0, 4))]
        return {chance.choice(("name", "idx", "a", "\ud800")): _value(chance, depth - 1) for _ in range(3)}
    if chance.random() < 0.3:
        return chance.choice(
            [chance.getrandbits(80), -chance.random(), 1e308, "".join(map(chr, chance.choices(range(55000), k=9)))]
        )
    return chance.choice(list(VALUES.values()))


def _filled(path: str, text: str) -> str:
    """Fill the names in a path. Nothing that exists is trained or segmented, because that would take long."""
    while "{" in path:
        path = path.partition("{")[0] + text.replace("{", "(").replace("}", ")") + path.partition("}")[2]
    return path
