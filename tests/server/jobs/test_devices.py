"""The device that a request asks for: one that isn't there is refused."""

from typing import Any

import pytest
import torch

from lib.core.errors import InputError
from lib.server.jobs.devices import VISIBLE, device_environment, training_processes

GPUS = torch.cuda.device_count()


@pytest.mark.parametrize(
    "request_",
    [{}, {"gpus": "all"}, {"gpus": None}, {"gpus": ""}, {"gpus": ["all"]}, {"device": ""}, {"device": []}],
)
def test_by_default_all_devices_are_seen(request_: dict[str, Any]) -> None:
    assert device_environment(request_) == {}


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"gpus": GPUS}, "number"),
        ({"gpus": str(GPUS)}, "number"),
        ({"gpus": [f"0,{GPUS}"]}, "number"),
        ({"gpus": -1}, "give 'all'"),
        ({"gpus": 1.5}, "give 'all'"),
        ({"gpus": True}, "give 'all'"),
        ({"gpus": "all,0"}, "give 'all'"),
        ({"gpus": {"0": 1}}, "give 'all'"),
        ({"gpus": "0" * 5000}, "give 'all'"),
        ({"gpus": ",".join("0" * 50)}, "give 'all'"),
        ({"device": f"cuda:{GPUS}"}, f"cuda:{GPUS}"),
        ({"device": "cuda:x"}, "cuda:x"),
        ({"device": "mps" if GPUS else "cuda"}, "can't be used"),
        ({"device": "tpu"}, "'tpu'"),
        ({"device": 0}, "device: 0"),
    ],
)
def test_a_device_that_is_not_there_is_refused(request_: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        device_environment(request_)
    assert str(refused.value).startswith(next(iter(request_)))


@pytest.mark.parametrize(
    ("environment", "count"), [({}, max(1, GPUS)), ({VISIBLE: "-1"}, 1), ({VISIBLE: "3"}, 1), ({VISIBLE: "0,2,5"}, 3)]
)
def test_one_process_trains_for_each_gpu(environment: dict[str, str], count: int) -> None:
    assert training_processes(environment) == count


@pytest.mark.skipif(not GPUS, reason="needs a GPU")
def test_gpus_are_chosen_among_those_that_the_server_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_environment({"gpus": 0}) == device_environment({"device": "cuda:0"}) == {VISIBLE: "0"}
    assert device_environment({"device": "cpu"}) == {VISIBLE: "-1"}
    monkeypatch.setenv(VISIBLE, "GPU-one,GPU-other")
    assert device_environment({"gpus": "0"}) == {VISIBLE: "GPU-one"}


@pytest.mark.skipif(bool(GPUS) or torch.backends.mps.is_available(), reason="has a GPU")
def test_the_processor_may_be_asked_for() -> None:
    assert device_environment({"device": "cpu"}) == {}
