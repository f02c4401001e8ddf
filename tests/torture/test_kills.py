"""The short form of ``python -m torture kills``, and that its oracle sees what is lost or torn."""

import json
import os
from pathlib import Path

import pytest

from serving import as_slicer_sends, write_image, write_label
from stores import open_store
from torture.kills import measure
from torture.ledger import Ledger, ModelLedger, annotation, fingerprint, leftovers
from torture.storing import model

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.mark.slow
def test_a_few_kills_lose_nothing(tmp_path: Path) -> None:
    outcome = measure(tmp_path, kills=6, on_server=0, seed=1)
    assert not outcome.faults
    assert outcome.facts["small_process"] == 6


@pytest.fixture
def ledger(studies: Path, tmp_path: Path) -> Ledger:
    """Two versions were acknowledged."""
    ledger, store = Ledger(), open_store(studies)
    for number in (1, 2):
        label, params = as_slicer_sends(annotation(number))
        ledger.send("a", voxels := fingerprint(annotation(number)))
        info = store.save_label("a", str(write_label(tmp_path / "label.nii.gz", label)), "final", params).info
        assert not ledger.acknowledge("a", info["version"], voxels)
    assert not ledger.faults(studies)
    return ledger


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    folder = tmp_path / "studies"
    folder.mkdir()
    write_image(folder / "a.nii.gz")
    return folder


def test_the_oracle_sees_lost_and_torn_versions(ledger: Ledger, studies: Path) -> None:
    labels = studies / "labels"
    first, second = (labels / f"version_{number}/a.nii.gz" for number in (1, 2))
    content = first.read_bytes()
    first.unlink()
    assert "version 1: acknowledged, and lost" in ledger.faults(studies)[0]
    first.write_bytes(second.read_bytes())
    assert "version 1: acknowledged with other voxels" in ledger.faults(studies)[0]
    first.write_bytes(content[:100])
    assert "version 1: acknowledged with other voxels" in ledger.faults(studies)[0]
    first.write_bytes(content)
    assert not ledger.faults(studies)
    (labels / "final/a.nii.gz").write_bytes(content)
    assert "final isn't the newest version" in ledger.faults(studies)[0]
    (labels / "final/a.nii.gz").write_bytes(second.read_bytes())
    (labels / "version_3").mkdir()
    (labels / "version_3/a.nii.gz").write_bytes(content[:-9])
    assert "version 3: torn" in ledger.faults(studies)[0]


def test_the_oracle_sees_a_version_acknowledged_twice(ledger: Ledger) -> None:
    assert ledger.acknowledge("a", 2, "x") == ["a, version 2: acknowledged twice"]


def test_the_oracle_sees_an_index_of_another_version(ledger: Ledger, studies: Path) -> None:
    path = studies / "labels/final/a.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 1}))
    assert "says version 1, not 2" in ledger.faults(studies)[0]


def test_the_oracle_sees_lost_and_torn_models(tmp_path: Path) -> None:
    models = ModelLedger()
    for number in (1, 2):
        models.send(f"run {number}")
        models.acknowledge(f"run {number}")
    model(2).save(tmp_path / "model.pt")
    assert models.faults(tmp_path) == ["run 1: published, and lost", "history.json: lost", "plan.json: lost"]
    content = (tmp_path / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(content[:-100])
    assert "model.pt: torn" in models.faults(tmp_path)[0]


def test_the_oracle_sees_what_is_left_over(studies: Path, tmp_path: Path) -> None:
    (studies / ".writing-x.nii.gz").touch()
    for name in ("1", "2"):
        (tmp_path / f"sparse_unet3d-{name}").mkdir()
    assert len(leftovers(studies, tmp_path)) == 2
