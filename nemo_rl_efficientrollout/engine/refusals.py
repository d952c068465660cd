"""Which set-ups the drafter cannot join, each by name. The engine then decodes plainly."""

from typing import Any

from vllm.config import VllmConfig
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase

from ..errors import UnsupportedError


def refuse_unsupported(vllm_config: VllmConfig) -> None:
    """Raises UnsupportedError naming what of this configuration or model is in the way, and what to do."""
    for is_in_the_way, reason in _REASONS:
        if is_in_the_way(vllm_config):
            raise UnsupportedError(reason)
    for name, layer in vllm_config.compilation_config.static_forward_context.items():
        _refuse_layer(name, layer)


def _refuse_layer(name: str, layer: Any) -> None:
    if isinstance(layer, AttentionLayerBase) and not isinstance(layer, Attention):
        raise UnsupportedError(
            f"layer '{name}' is {type(layer).__name__}: only models of plain attention layers can share their"
            " KV cache with the drafter"
        )
    if isinstance(layer, Attention) and layer.kv_sharing_target_layer_name is not None:
        raise UnsupportedError(f"layer '{name}' shares its KV cache with another layer already")


_REASONS = (
    (
        lambda config: config.parallel_config.pipeline_parallel_size > 1,
        "pipeline parallelism is not supported: set pipeline_parallel_size to 1",
    ),
    (
        lambda config: config.parallel_config.decode_context_parallel_size > 1,
        "decode context parallelism is not supported: set decode_context_parallel_size to 1",
    ),
    (
        lambda config: config.parallel_config.data_parallel_size > 1 and config.model_config.is_moe,
        "data parallelism inside one engine of a mixture of experts is not supported, as its ranks could choose"
        " different draft lengths and wait for each other: run one engine per replica",
    ),
    (
        lambda config: config.parallel_config.enable_eplb,
        "expert load balancing is not supported, as it moves experts that the drafter copied: set enable_eplb to false",
    ),
    (
        lambda config: config.lora_config is not None,
        "LoRA adapters are not supported: merge them into the policy",
    ),
    (
        lambda config: config.kv_transfer_config is not None,
        "KV connectors are not supported: the drafter's writes would be transferred",
    ),
    (
        lambda config: config.cache_config.kv_sharing_fast_prefill,
        "kv_sharing_fast_prefill is not supported: set it to false",
    ),
)
