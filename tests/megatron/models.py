"""Real megatron-core models on CPU, and processes that hold their shards. Imported in the processes only."""

import warnings
from typing import Any

import torch
from torch import nn

from tests.megatron.shapes import GROUPS, HEADS, HIDDEN, LAYERS, PADDED_VOCAB, Shape

warnings.filterwarnings("ignore", category=UserWarning)

from megatron.core import parallel_state as state  # noqa: E402
from megatron.core.models.gpt import GPTModel  # noqa: E402
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402

# Megatron asks for "the current CUDA device" even where it was told to stay on the CPU.
torch.cuda.current_device = lambda: torch.device("cpu")  # pyright: ignore[reportAttributeAccessIssue]
torch.Tensor.cuda = lambda self, *_, **__: self  # pyright: ignore[reportAttributeAccessIssue]


def build(shape: Shape, dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """The GPTModel of this rank's pipeline stage, for the parallel state as it is."""
    mixture: dict[str, Any] = {}
    if shape.experts:
        mixture = {
            "num_moe_experts": shape.experts,
            "moe_ffn_hidden_size": shape.expert_ffn,
            "moe_shared_expert_intermediate_size": shape.shared_ffn or None,
            "moe_layer_freq": [0, 1],
            "moe_router_topk": 2,
            "moe_router_load_balancing_type": "none",
            "moe_token_dispatcher_type": "allgather",
        }
    config = TransformerConfig(
        num_layers=LAYERS,
        hidden_size=HIDDEN,
        num_attention_heads=HEADS,
        num_query_groups=GROUPS,
        kv_channels=shape.head,
        ffn_hidden_size=shape.ffn,
        gated_linear_unit=shape.gated,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=shape.biases,
        normalization="RMSNorm",
        layernorm_epsilon=1e-6,
        qk_layernorm=True,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        use_cpu_initialization=True,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype is torch.bfloat16,
        tensor_model_parallel_size=state.get_tensor_model_parallel_world_size(),
        pipeline_model_parallel_size=state.get_pipeline_model_parallel_world_size(),
        expert_model_parallel_size=state.get_expert_model_parallel_world_size(),
        expert_tensor_parallel_size=state.get_expert_tensor_parallel_world_size(),
        **mixture,
    )
    spec: Any = get_gpt_decoder_block_spec(config, use_transformer_engine=False)
    return GPTModel(
        config,
        spec,
        vocab_size=PADDED_VOCAB,
        max_sequence_length=64,
        pre_process=state.is_pipeline_first_stage(),
        post_process=state.is_pipeline_last_stage(),
        share_embeddings_and_output_weights=shape.tied,
        position_embedding_type="rope",
    )
