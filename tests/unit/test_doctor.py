"""What the doctor makes of what it was told."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nemo_rl_efficientrollout import read_settings
from nemo_rl_efficientrollout.config import DrafterSettings
from nemo_rl_efficientrollout.doctor import Finding, Job, is_go
from nemo_rl_efficientrollout.doctor.engine import TINY_MODEL, judge
from nemo_rl_efficientrollout.doctor.environments import Environment
from nemo_rl_efficientrollout.doctor.folders import folder_finding
from nemo_rl_efficientrollout.doctor.gpu import Gpu, driver_finding, gpu_finding, gpus_of
from nemo_rl_efficientrollout.doctor.interpreter import Reply
from nemo_rl_efficientrollout.doctor.kernels import SIDE, kernel_finding
from nemo_rl_efficientrollout.doctor.memory import LEAST_LEFT_FOR_CACHE, memory_finding
from nemo_rl_efficientrollout.doctor.trainer import trainer_findings
from nemo_rl_efficientrollout.drafter.formats import FORMATS
from nemo_rl_efficientrollout.drafter.shapes import model_shape
from nemo_rl_efficientrollout.drafter.size import drafter_size, policy_size
from nemo_rl_efficientrollout.errors import UserError
from tests.stub_environments import add_distribution, worker_environment

WORKER = Environment("worker", Path("/worker/bin/python"), needed=True)
SPARE = Environment("spare", Path("/spare/bin/python"), needed=False)
NO_DRIVER = Finding("GPU driver", "not checked", "there is no nvidia-smi")
QWEN = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
}


def gpu(memory_bytes: int = 80 * 2**30, **changes: Any) -> Gpu:
    return Gpu(**{"name": "H100", "memory_bytes": memory_bytes, "capability": (9, 0), "lacks_fp8": None, **changes})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    return tmp_path


def test_warnings_are_go_and_one_failure_is_not() -> None:
    fine = [Finding("a", "ok", ""), Finding("b", "warn", ""), Finding("c", "not checked", "")]
    assert is_go(fine)
    assert not is_go([*fine, Finding("d", "fail", "")])


class TestGpu:
    def test_gpus_are_those_of_a_needed_environment(self) -> None:
        device = Reply({"gpus": [{"name": "H100", "memory_bytes": 1, "capability": [9, 0]}]})
        seen, none = {"device": device, "lacks_fp8": Reply([None])}, {"device": Reply(error="no torch")}
        assert gpus_of([(WORKER, none), (WORKER, seen)]) == [gpu(1)]
        assert gpus_of([(SPARE, seen), (WORKER, none)]) is None
        assert gpu_finding(None, NO_DRIVER).verdict == "not checked"
        unknown = {"device": device, "lacks_fp8": Reply(error="not installed")}
        assert gpus_of([(WORKER, unknown)]) == [gpu(1, lacks_fp8="not installed")]

    def test_what_there_is_is_named(self) -> None:
        found = gpu_finding([gpu(), gpu()], Finding("GPU driver", "ok", "580.1"))
        assert (found.verdict, found.found) == ("ok", "2 × H100, 80 GiB, compute capability 9.0, FP8")
        old = gpu(capability=(8, 0), lacks_fp8="compute capability 8.0 has no FP8")
        assert "no FP8 (compute capability 8.0" in gpu_finding([old], NO_DRIVER).found
        assert gpu_finding([gpu(), old], NO_DRIVER).verdict == "warn"

    def test_no_gpu_is_a_warning_unless_its_driver_is_there(self) -> None:
        assert gpu_finding([], NO_DRIVER).verdict == "warn"
        assert "CPU only" in gpu_finding([], NO_DRIVER).found
        unseen = gpu_finding([], Finding("GPU driver", "ok", "580.1"))
        assert unseen.verdict == "fail"
        assert "580.1" in unseen.found

    @pytest.mark.parametrize(
        ("script", "verdict", "found"),
        [
            ("echo 580.1; echo 580.1", "ok", "580.1"),
            ("echo no connection to the driver; exit 9", "fail", "nvidia-smi: no connection to the driver"),
        ],
    )
    def test_the_driver_is_asked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, verdict: str, found: str
    ) -> None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        answer = driver_finding()
        assert (answer.verdict, answer.found) == (verdict, found)


class TestKernels:
    REPLY = Reply({"int8": {"kernel": "Cutlass"}, "fp8": {"missing": "runs on GPUs from compute capability 8.9"}})

    def find(self, wanted: DrafterSettings, environment: Environment = WORKER) -> Finding:
        return kernel_finding(environment, {"kernels": self.REPLY}, wanted)

    def test_only_a_wanted_format_without_kernel_is_no_go(self) -> None:
        good = self.find(DrafterSettings(format="int8"))
        assert (good.verdict, good.found) == ("ok", "int8: Cutlass; none for fp8; the job uses int8")
        bad = self.find(DrafterSettings(format="fp8"))
        assert bad.verdict == "fail"
        assert "runs on GPUs from compute capability 8.9" in bad.found
        assert "int8" in bad.advice
        assert self.find(DrafterSettings(format="fp8"), SPARE).verdict == "warn"

    def test_a_simulated_format_needs_no_kernel(self) -> None:
        found = self.find(DrafterSettings(format="fp8", simulate=True))
        assert found.verdict == "ok"
        assert "fp8 (simulated)" in found.found

    def test_every_format_takes_the_shape_that_is_asked_about(self) -> None:
        assert all(form.refusal(SIDE, SIDE) is None for form in FORMATS.values())


class TestMemory:
    def test_policy_and_drafter_are_counted_as_the_size_command_does(self, model: Path) -> None:
        shape = model_shape(QWEN)
        whole = sum(policy_size(shape).values()) + drafter_size(shape, FORMATS["int8"]).total
        what = Job(model=model, gpu_memory_utilization=0.5)
        room = whole / (1 - LEAST_LEFT_FOR_CACHE) / 0.5
        assert memory_finding(what, [gpu(int(room * 1.01))]).verdict == "ok"
        tight = memory_finding(what, [gpu(), gpu(int(room * 0.99))])  # the smallest counts
        assert tight.verdict == "warn"
        assert f"{LEAST_LEFT_FOR_CACHE:.0%}" in tight.advice
        assert "GiB left for the KV cache" in tight.found
        assert memory_finding(what, [gpu(int(whole / 0.5) - 2**20)]).verdict == "fail"
        assert memory_finding(what, [gpu(int(whole / 0.5) + 2**20)]).verdict == "warn"

    def test_settings_change_the_drafters_size(self, model: Path) -> None:
        def found(**drafter: Any) -> str:
            return memory_finding(Job(settings=read_settings({"drafter": drafter}), model=model), []).found

        assert "drafter 0.00 GiB" in found(format="bf16")
        assert found(format="int4") != found(format="int8") != found(format="int8", lm_head=False)
        policy = sum(policy_size(model_shape(QWEN)).values()) / 2**30
        assert f"int8 drafter {policy:.2f} GiB" in found(simulate=True)

    def test_what_cannot_be_told_is_not_checked(self, model: Path) -> None:
        assert memory_finding(Job(), [gpu()]).verdict == "not checked"
        assert "no GPU to compare with" in memory_finding(Job(model=model), []).found
        (model / "config.json").write_text(json.dumps(QWEN | {"model_type": "mamba"}))
        assert "'mamba' is not known" in memory_finding(Job(model=model), [gpu()]).found

    def test_gpus_that_do_not_divide_the_model_are_a_mistake(self, model: Path) -> None:
        with pytest.raises(UserError, match="does not divide among 3 GPUs"):
            memory_finding(Job(model=model, tensor_parallel=3), [gpu()])


class TestEngine:
    GOOD: Mapping[str, Any] = {
        "policy_version": 1,
        "drafter_version": 1,
        "drafter_problem": "",
        "drafts": 8,
        "drafted_tokens": 24,
        "accepted_tokens": 20,
    }

    def test_workers_that_draft_are_ok(self) -> None:
        found = judge(WORKER, Reply([self.GOOD, self.GOOD]))
        assert (found.verdict, found.name) == ("ok", "engine [worker]")
        assert "8 drafts, 20 of 24 tokens accepted" in found.found

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"drafts": 0}, "nothing was drafted"),
            ({"drafter_version": 0}, "its drafter is of version 0, its policy of 1"),
            ({"drafter_problem": "no kernel"}, "no kernel"),
        ],
    )
    def test_one_worker_that_does_not_is_no_go(self, change: dict[str, Any], said: str) -> None:
        found = judge(WORKER, Reply([self.GOOD, {**self.GOOD, **change}]))
        assert (found.verdict, found.found) == ("fail", f"worker 1: {said}")
        assert judge(SPARE, Reply([{**self.GOOD, **change}])).verdict == "warn"

    def test_an_engine_that_does_not_run_is_no_go(self) -> None:
        assert judge(WORKER, Reply(error="no answer within 600 s")).verdict == "fail"

    def test_every_format_takes_every_layer_of_the_tiny_model(self) -> None:
        shape = model_shape(TINY_MODEL)
        assert {name: drafter_size(shape, form).refusals for name, form in FORMATS.items()} == {
            name: [] for name in FORMATS
        }


class TestTrainer:
    JOB = Job(settings=read_settings({"refit": {"quantize_on": "trainer"}}))

    def find(self, python: Path | None) -> Finding:
        (found,) = trainer_findings(self.JOB, python, lambda step: None)
        return found

    def test_it_is_looked_at_only_where_it_quantizes(self) -> None:
        assert trainer_findings(Job(), None, lambda step: None) == []
        assert self.find(None).verdict == "fail"

    def test_it_needs_this_package_and_megatron(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("PYTHONPATH", raising=False)
        python = worker_environment(tmp_path / "trainer")
        assert "has no megatron-core" in self.find(python).found
        add_distribution(python, "megatron-core", "0.16.1")
        found = self.find(python)
        assert found.verdict == "ok"
        assert "megatron-core 0.16.1, without Transformer Engine" in found.found
        assert "does not import" in self.find(worker_environment(tmp_path / "stock", version=None)).found
        assert "0.0.9 there" in self.find(worker_environment(tmp_path / "old", version="0.0.9")).found


def test_folders_are_judged_where_they_would_be_made(tmp_path: Path) -> None:
    assert folder_finding(tmp_path / "logs" / "run").verdict == "ok"
    (tmp_path / "file").touch(mode=0o755)
    assert folder_finding(tmp_path / "file" / "run").verdict == "fail"
    assert folder_finding(Path("/proc/sys/logs")).verdict == "fail"
