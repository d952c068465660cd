"""How the doctor learns of the job: with stand-ins for the room that reads NeMo-RL's files."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nemo_rl_efficientrollout.doctor import Job, job, read_job
from nemo_rl_efficientrollout.errors import SettingsError, UserError

CONFIG: Mapping[str, Any] = {
    "policy": {
        "model_name": "org/model",
        "generation": {
            "efficientrollout": {"drafter": {"format": "int4"}},
            "vllm_cfg": {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.6, "async_engine": True},
        },
    },
    "logger": {"log_dir": "logs"},
}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, Sequence[str]]]:
    """Calls of `read_config`."""
    calls: list[tuple[Path, Sequence[str]]] = []

    def read_config(path: Path, overrides: Sequence[str]) -> Mapping[str, Any]:
        calls.append((path, overrides))
        return CONFIG

    stand_in(monkeypatch, "launcher", read_config=read_config)
    stand_in(monkeypatch, "translation", translated=dict)
    monkeypatch.setattr(job, "find_spec", lambda name: object())
    return calls


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **functions: Any) -> None:
    module = ModuleType(name)
    vars(module).update(functions)
    room = "nemo_rl_efficientrollout.nemo_rl"
    monkeypatch.setitem(sys.modules, room, ModuleType(room))
    monkeypatch.setitem(sys.modules, f"{room}.{name}", module)


def test_the_job_is_what_the_configuration_says(read: list[Any]) -> None:
    what, finding = read_job(Path("recipe.yaml"), ["a.b=1"])
    assert read == [(Path("recipe.yaml"), ["a.b=1"])]
    assert finding.verdict == "ok"
    assert what.settings.drafter.format == "int4"
    assert (what.tensor_parallel, what.gpu_memory_utilization, what.async_engine) == (2, 0.6, True)
    assert what.model is None  # no folder here
    assert what.folders == (Path("logs"),)


def test_a_local_model_is_found(read: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"policy": {"model_name": str(tmp_path), "generation": {}}}
    stand_in(monkeypatch, "launcher", read_config=lambda path, overrides: config)
    what, finding = read_job(Path("recipe.yaml"))
    assert what.model == tmp_path
    assert finding.verdict == "warn"  # nothing of this package in it
    assert "policy.generation.backend=efficientrollout" in finding.advice


def test_what_cannot_work_is_no_go(read: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(config: Any) -> Any:
        raise SettingsError("policy.generation.vllm_cfg.pipeline_parallel_size is 2")

    stand_in(monkeypatch, "translation", translated=refuse)
    what, finding = read_job(Path("recipe.yaml"))
    assert (finding.verdict, finding.found) == ("fail", "policy.generation.vllm_cfg.pipeline_parallel_size is 2")
    assert what.tensor_parallel == 2


def test_a_file_that_cannot_be_read_is_a_mistake(read: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, overrides: Any) -> Any:
        raise UserError(f"{path} is no configuration")

    stand_in(monkeypatch, "launcher", read_config=refuse)
    with pytest.raises(UserError, match="no configuration"):
        read_job(Path("recipe.yaml"))


def test_without_nemo_rl_it_is_no_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "find_spec", lambda name: None)
    what, finding = read_job(Path("recipe.yaml"))
    assert what == Job()
    assert finding.verdict == "fail"
    assert "NeMo-RL is not installed here" in finding.found
