"""How the doctor learns of the job, with a stand-in for what reads NeMo-RL's files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from nemo_rl_efficientrollout.doctor import Job, job, read_job
from nemo_rl_efficientrollout.errors import UserError

CONFIG: Mapping[str, Any] = {
    "policy": {
        "model_name": "org/model",
        "generation": {
            "backend": "efficientrollout",
            "efficientrollout": {"drafter": {"format": "int4"}},
            "vllm_cfg": {
                "tensor_parallel_size": 2,
                "gpu_memory_utilization": 0.6,
                "async_engine": True,
                "max_model_len": 512,
            },
        },
    },
    "logger": {"log_dir": "logs"},
}


def changed(**generation: Any) -> dict[str, Any]:
    return {**CONFIG, "policy": CONFIG["policy"] | {"generation": CONFIG["policy"]["generation"] | generation}}


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, Any]], None]:
    """Let every file hold this configuration, as if NeMo-RL were here to read it."""

    def hold(config: Mapping[str, Any]) -> None:
        monkeypatch.setattr(job, "read_config", lambda path, overrides: {**config, "overrides": list(overrides)})

    monkeypatch.setattr(job, "find_spec", lambda name: object())
    hold(CONFIG)
    return hold


def test_the_job_is_what_the_configuration_says(read: Any) -> None:
    what, finding = read_job(Path("recipe.yaml"), ["a.b=1"])
    assert finding.verdict == "ok"
    assert what.settings.drafter.format == "int4"
    assert (what.tensor_parallel, what.gpu_memory_utilization, what.async_engine) == (2, 0.6, True)
    assert what.model is None  # no folder here
    assert what.folders == (Path("logs"),)


def test_a_local_model_is_found(read: Any, tmp_path: Path) -> None:
    read({"policy": CONFIG["policy"] | {"model_name": str(tmp_path)}})
    assert read_job(Path("recipe.yaml"))[0].model == tmp_path


def test_a_plain_job_is_worth_a_warning_even_with_settings(read: Any) -> None:
    read(changed(backend="vllm"))
    _, finding = read_job(Path("recipe.yaml"))
    assert finding.verdict == "warn"
    assert "policy.generation.backend=efficientrollout" in finding.advice


def test_what_cannot_work_is_no_go(read: Any) -> None:
    read(changed(vllm_cfg=CONFIG["policy"]["generation"]["vllm_cfg"] | {"pipeline_parallel_size": 2}))
    what, finding = read_job(Path("recipe.yaml"))
    assert finding.verdict == "fail"
    assert "pipeline_parallel_size is 2" in finding.found
    assert what.tensor_parallel == 2


def test_a_file_that_cannot_be_read_is_a_mistake(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, overrides: Any) -> Any:
        raise UserError(f"{path} is no configuration")

    monkeypatch.setattr(job, "read_config", refuse)
    with pytest.raises(UserError, match="no configuration"):
        read_job(Path("recipe.yaml"))


def test_without_nemo_rl_it_is_no_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "find_spec", lambda name: None)
    what, finding = read_job(Path("recipe.yaml"))
    assert what == Job()
    assert finding.verdict == "fail"
    assert "NeMo-RL is not installed here" in finding.found
