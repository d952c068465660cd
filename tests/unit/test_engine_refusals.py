"""Every set-up that the drafter cannot join is refused by its name."""

from types import SimpleNamespace
from typing import Any

import pytest
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase

from nemo_rl_efficientrollout.config import KEY
from nemo_rl_efficientrollout.engine.plugin import _install_runner
from nemo_rl_efficientrollout.engine.refusals import refuse_unsupported
from nemo_rl_efficientrollout.errors import UnsupportedError


def config(layers: dict[str, Any] | None = None, moe: bool = False, **changes: Any) -> Any:
    """A plain configuration with `changes` anywhere in it."""
    parallel = {
        "pipeline_parallel_size": 1,
        "decode_context_parallel_size": 1,
        "data_parallel_size": 1,
        "enable_eplb": False,
    }
    others = {"lora_config": None, "kv_transfer_config": None, "kv_sharing_fast_prefill": False} | changes
    return SimpleNamespace(
        parallel_config=SimpleNamespace(**{name: changes.get(name, value) for name, value in parallel.items()}),
        model_config=SimpleNamespace(is_moe=moe),
        lora_config=others["lora_config"],
        kv_transfer_config=others["kv_transfer_config"],
        cache_config=SimpleNamespace(kv_sharing_fast_prefill=others["kv_sharing_fast_prefill"]),
        compilation_config=SimpleNamespace(static_forward_context=layers or {}),
    )


def layer(kind: type, **attributes: Any) -> Any:
    new = object.__new__(kind)
    for name, value in attributes.items():
        object.__setattr__(new, name, value)
    return new


class MambaMixer(AttentionLayerBase):
    """A layer with a state instead of a KV cache."""

    def get_attn_backend(self) -> Any:
        raise NotImplementedError

    def get_kv_cache_spec(self, vllm_config: Any) -> Any:
        raise NotImplementedError


PLAIN = {"model.layers.0.self_attn.attn": layer(Attention, kv_sharing_target_layer_name=None)}
BORROWER = {"model.layers.1.self_attn.attn": layer(Attention, kv_sharing_target_layer_name="model.layers.0")}
MAMBA = {"model.layers.2.mixer": layer(MambaMixer)}


@pytest.mark.parametrize("fine", [config(PLAIN), config(PLAIN, moe=True), config(PLAIN, data_parallel_size=4)])
def test_plain_attention_is_welcome(fine: Any) -> None:
    refuse_unsupported(fine)


@pytest.mark.parametrize(
    ("refused", "words"),
    [
        (config(pipeline_parallel_size=2), "pipeline_parallel_size to 1"),
        (config(decode_context_parallel_size=2), "decode_context_parallel_size to 1"),
        (config(data_parallel_size=2, moe=True), "one engine per replica"),
        (config(enable_eplb=True), "enable_eplb"),
        (config(lora_config=object()), "LoRA adapters"),
        (config(kv_transfer_config=object()), "KV connectors"),
        (config(kv_sharing_fast_prefill=True), "kv_sharing_fast_prefill"),
        (config(PLAIN | MAMBA), r"layer 'model\.layers\.2\.mixer' is MambaMixer"),
        (config(PLAIN | BORROWER), r"layer 'model\.layers\.1\.self_attn\.attn' shares its KV cache"),
    ],
)
def test_what_is_in_the_way_is_named(refused: Any, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        refuse_unsupported(refused)


@pytest.mark.parametrize(
    ("v2", "stages", "asynchronous", "words"),
    [(True, 2, True, "pipeline_parallel_size to 1"), (False, 1, True, "set async_scheduling to false")],
)
def test_what_a_runner_cannot_do_stops_the_engine_with_one_line(
    v2: bool, stages: int, asynchronous: bool, words: str
) -> None:
    wanted: Any = SimpleNamespace(
        use_v2_model_runner=v2,
        parallel_config=SimpleNamespace(pipeline_parallel_size=stages),
        scheduler_config=SimpleNamespace(async_scheduling=asynchronous),
    )
    with pytest.raises(UnsupportedError, match=words):
        _install_runner(wanted)


@pytest.mark.parametrize(
    ("enabled", "asked", "able", "scheduling"),
    [(True, None, True, True), (True, None, False, None), (True, False, True, False), (False, None, True, None)],
)
def test_vllm_0_25_1_schedules_asynchronously_where_its_executor_can(
    monkeypatch: pytest.MonkeyPatch, enabled: bool, asked: bool | None, able: bool, scheduling: bool | None
) -> None:
    from vllm.v1.executor.abstract import Executor

    from nemo_rl_efficientrollout.engine.compat.runner_choice import _schedule_asynchronously

    executor = SimpleNamespace(supports_async_scheduling=lambda: able)
    monkeypatch.setattr(Executor, "get_class", lambda config: executor)
    seen = []
    config = SimpleNamespace(
        additional_config={KEY: {}} if enabled else {}, scheduler_config=SimpleNamespace(async_scheduling=asked)
    )
    _schedule_asynchronously(lambda config: seen.append(config.scheduler_config.async_scheduling))(config)
    assert seen == [scheduling]
