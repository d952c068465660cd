"""What NeMo-RL is given in place of the backend `efficientrollout`, and what is refused. Needs no NeMo-RL."""

from pathlib import Path
from typing import Any

import pytest

from nemo_rl_efficientrollout.api import SCHEDULER
from nemo_rl_efficientrollout.config import read_settings
from nemo_rl_efficientrollout.errors import SettingsError
from nemo_rl_efficientrollout.nemo_rl.refusals import NIXL_WORKER
from nemo_rl_efficientrollout.nemo_rl.translation import overrides, translated


def training(**changes: Any) -> dict[str, Any]:
    """A configuration as NeMo-RL resolves it; `a__b=1` changes key `b` of block `a` below generation."""
    generation: dict[str, Any] = {
        "backend": "efficientrollout",
        "vllm_cfg": {
            "max_model_len": 512,
            "tensor_parallel_size": 1,
            "pipeline_parallel_size": 1,
            "expert_parallel_size": 1,
            "precision": "bfloat16",
        },
        "vllm_kwargs": {},
        "refit_transport": None,
    }
    policy = {
        "model_name": "some/model",
        "generation": generation,
        "megatron_cfg": {"enabled": True},
        "draft": {"enabled": False},
    }
    for path, value in changes.items():
        *blocks, last = path.split("__")
        block = policy if blocks[:1] == ["policy"] else generation
        for name in blocks[blocks[:1] == ["policy"] :]:
            block = block.setdefault(name, {})
        block[last] = value
    return {"policy": policy, "grpo": {"num_prompts_per_step": 32}}


def generation_of(config: dict[str, Any]) -> dict[str, Any]:
    return translated(config)["policy"]["generation"]


def test_the_backend_becomes_vllm_with_our_arguments() -> None:
    generation = generation_of(training(efficientrollout={"draft_length": {"max": 3}, "drafter": {"format": "fp8"}}))
    assert generation["backend"] == "vllm"
    kwargs = generation["vllm_kwargs"]
    assert kwargs["speculative_config"]["num_speculative_tokens"] == 3  # NeMo-RL clamps max_tokens by it
    assert kwargs["speculative_config"]["model"] == "some/model"
    assert kwargs["scheduler_cls"] == SCHEDULER
    settings = read_settings(kwargs["additional_config"]["efficientrollout"])
    assert (settings.drafter.format, settings.draft_length.max) == ("fp8", 3)
    assert generation["efficientrollout"] == settings.model_dump()


def test_nothing_else_changes() -> None:
    config = training(vllm_kwargs__additional_config={"other": 1}, vllm_kwargs__seed=3)
    result = translated(config)
    assert config == training(vllm_kwargs__additional_config={"other": 1}, vllm_kwargs__seed=3)
    assert result["grpo"] == config["grpo"]
    kwargs = result["policy"]["generation"]["vllm_kwargs"]
    assert kwargs["seed"] == 3
    assert set(kwargs["additional_config"]) == {"other", "efficientrollout"}


@pytest.mark.parametrize("backend", ["vllm", "megatron", "sglang"])
def test_another_backend_is_left_alone(backend: str) -> None:
    config = training(backend=backend, efficientrollout={"draft_length": {"max": 3}})
    assert translated(config) == config


def test_a_configuration_without_generation_is_left_alone() -> None:
    for config in ({"policy": {"model_name": "x"}}, {"policy": {"generation": None}}, {}):
        assert translated(config) == config


def test_an_evaluation_has_its_generation_at_the_top() -> None:
    config = {"generation": training()["policy"]["generation"] | {"model_name": "evaluated"}}
    generation = translated(config)["generation"]
    assert generation["backend"] == "vllm"
    assert generation["vllm_kwargs"]["speculative_config"]["model"] == "evaluated"


def test_the_same_as_overrides() -> None:
    config = training(efficientrollout={"gate": {"mode": "fixed", "draft_length": 2}})
    config["policy"]["model_name"] = r"odd 'na\me"
    backend, drafting, scheduler, settings, block = overrides(config)
    where = "policy.generation"
    assert backend == f"{where}.backend=vllm"
    assert drafting.startswith(f"++{where}.vllm_kwargs.speculative_config={{method:'draft_model',")
    assert r"model:'odd \'na\\me'" in drafting
    assert scheduler == f"++{where}.vllm_kwargs.scheduler_cls='{SCHEDULER}'"
    assert settings.endswith("gate:{mode:'fixed',draft_length:2,seed:0,calibration:null},strict:false}}")
    assert block.startswith(f"++{where}.efficientrollout={{drafter:")


def test_overrides_of_a_plain_configuration_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"policy\.generation\.backend is not 'efficientrollout'"):
        overrides(training(backend="vllm"))


TRAINER = {"refit": {"quantize_on": "trainer"}}
REFUSED = [
    ({"backend": "eficientrollout"}, "did you mean 'efficientrollout'"),
    ({"efficientrollout": {"gate": {"mod": "off"}}}, "did you mean 'gate.mode'"),
    ({"policy__model_name": None}, "policy.model_name is missing"),
    ({"vllm_cfg": None}, "vllm_cfg is missing"),
    ({"vllm_cfg": [1]}, "policy.generation.vllm_cfg is [1], expected a block"),
    ({"vllm_kwargs": "x"}, "policy.generation.vllm_kwargs is 'x', expected a block"),
    ({"vllm_kwargs__additional_config": 5}, "additional_config is 5, expected a block"),
    ({"vllm_cfg__max_model_len": None}, "max_model_len is 0: lower the first or raise"),
    ({"vllm_cfg__max_model_len": "many"}, "vllm_cfg.max_model_len is 'many', expected a whole number"),
    ({"vllm_cfg__tensor_parallel_size": [2]}, "vllm_cfg.tensor_parallel_size is [2], expected a whole number"),
    ({"vllm_cfg__env_vars": 1}, "vllm_cfg.env_vars is 1, expected a block"),
    ({"backend": 10**5000}, "backend is int too large to show"),
    ({"policy__generation": [1]}, "policy.generation is [1], expected a block"),
    ({"vllm_cfg__max_model_len": 7}, "max_model_len is 7: lower the first or raise"),
    ({"vllm_kwargs__speculative_config": {"rejection_sample_method": "synthetic"}}, "synthetic acceptance"),
    ({"vllm_kwargs__speculative_config": {"method": "eagle3"}}, "speculative_config is set already"),
    ({"vllm_kwargs__scheduler_cls": "a.B"}, "scheduler_cls is set already"),
    ({"vllm_kwargs__worker_cls": "a.B"}, "worker_cls is 'a.B'"),
    ({"quant_cfg": "NVFP4"}, "ModelOpt"),
    ({"real_quant": True}, "ModelOpt"),
    ({"vllm_cfg__precision": "fp8"}, "set it to 'bfloat16'"),
    ({"vllm_cfg__pipeline_parallel_size": 2}, "pipeline_parallel_size is 2"),
    ({"vllm_cfg__expert_parallel_size": 4}, "expert_parallel_size is 4"),
    ({"vllm_kwargs__enable_lora": True}, "enable_lora"),
    ({"vllm_cfg__enable_return_routed_experts": True}, "enable_return_routed_experts"),
    ({"vllm_kwargs__kv_transfer_config": {"kv_connector": "x"}}, "KV connectors"),
    ({"policy__draft__enabled": True}, "policy.draft.enabled"),
    ({"vllm_cfg__env_vars": {"VLLM_PLUGINS": "a,b"}}, "add 'efficientrollout'"),
    ({"efficientrollout": {"gate": {"calibration": "no/such.json"}}}, "no/such.json"),
    ({"efficientrollout": TRAINER, "policy__megatron_cfg__enabled": False}, "only Megatron policies"),
    ({"efficientrollout": TRAINER, "vllm_cfg__tensor_parallel_size": 2}, "tensor_parallel_size is 2"),
    ({"efficientrollout": TRAINER, "refit_transport": "nccl_reshard"}, "refit_transport is 'nccl_reshard'"),
]


@pytest.mark.parametrize(("changes", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_cannot_work_is_refused_in_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        translated(training(**changes))
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


ACCEPTED = [
    {},
    {"vllm_cfg__max_model_len": 8},
    {"vllm_cfg__max_model_len": 512.0},
    {"vllm_kwargs__speculative_config": {"num_speculative_tokens": 0}},
    {"vllm_kwargs__worker_cls": NIXL_WORKER, "refit_transport": "nixl"},
    {"vllm_cfg__precision": "fp8", "efficientrollout": {"drafter": {"format": "bf16"}}},
    {"vllm_cfg__tensor_parallel_size": 4, "vllm_cfg__expert_parallel_size": 4},
    {"vllm_cfg__env_vars": {"VLLM_PLUGINS": "efficientrollout,b"}},
    {"efficientrollout": {"gate": {"calibration": str(Path(__file__))}}},
    {"efficientrollout": TRAINER},
    {"policy__megatron_cfg__enabled": False, "policy__dtensor_cfg": {"enabled": True}},
]


@pytest.mark.parametrize("changes", ACCEPTED)
def test_their_neighbours_are_not(changes: dict[str, Any]) -> None:
    assert generation_of(training(**changes))["backend"] == "vllm"
