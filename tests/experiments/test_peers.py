"""Other software on a small example; skipped where it isn't installed."""

from dataclasses import replace
from pathlib import Path

import pytest

from dense_volumes import write_balls
from experiments.methods import METHODS, SIZES, MethodInput
from experiments.study import Source, load_study
from lib.core.device.machine import Machine

PEERS = ("interpolation", "pytorch3dunet", "nnunetv2")


@pytest.mark.parametrize("name", PEERS)
def test_other_software_segments_what_it_learnt_from(name: str, tmp_path: Path) -> None:
    method = METHODS[name]
    if not method.is_available:
        pytest.skip(f"{method.package} isn't installed; it comes with benchmarks/requirements.txt")
    write_balls(tmp_path / "balls")
    study = load_study(Source(tmp_path / "balls", "ball", False, tmp_path))
    slices = {id_: subject.slices for id_, subject in study.subjects.items()}
    told: list[float] = []
    given = MethodInput(
        scheme=study.scheme,
        cases=[subject.annotated(id_, subject.slices) for id_, subject in study.subjects.items()],
        slices=slices,
        steps=1,
        seed=0,
        size=replace(SIZES["small"], peer_seconds=5),
        machine=Machine("cpu", 10**9),
        folder=tmp_path,
        progress=lambda part, _text: told.append(part),
    )
    segment = method.learn(given)
    places = study.subjects["ball_1"].slices
    planes = segment("ball_1", study.subjects["ball_1"].volume, places)
    assert list(planes) == list(places)
    assert all(plane.max() <= 1 for plane in planes.values())
    assert name == "interpolation" or max(told) == 1
