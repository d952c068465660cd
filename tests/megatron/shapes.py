"""Tiny models: their weights under Hugging Face's names, and the same as Megatron stacks and slices them.

Written by hand after Megatron-core's layers, without any code of the package: what the tests compare with.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

HIDDEN = 256
LAYERS = 2
HEADS = 4
GROUPS = 2
VOCAB = 300
PADDED_VOCAB = 512


@dataclass(frozen=True)
class Shape:
    """A model of two layers; with experts, the second is a mixture."""

    head: int = 128
    ffn: int = 512
    experts: int = 0
    expert_ffn: int = 256
    shared_ffn: int = 0
    tied: bool = False
    gated: bool = True
    biases: bool = False

    def is_mixture(self, layer: int) -> bool:
        return self.experts > 0 and layer == 1


def hf_weights(shape: Shape, seed: int = 0) -> dict[str, Tensor]:
    """BF16 weights [N, K] of every linear, embedding and router."""
    sizes: dict[str, tuple[int, int]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}

    def mlp(prefix: str, ffn: int) -> None:
        for name in ("gate_proj", "up_proj") if shape.gated else ("up_proj",):
            sizes[f"{prefix}.{name}.weight"] = (ffn, HIDDEN)
        sizes[f"{prefix}.down_proj.weight"] = (HIDDEN, ffn)

    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        sizes[f"{prefix}.self_attn.q_proj.weight"] = (HEADS * shape.head, HIDDEN)
        sizes[f"{prefix}.self_attn.k_proj.weight"] = (GROUPS * shape.head, HIDDEN)
        sizes[f"{prefix}.self_attn.v_proj.weight"] = (GROUPS * shape.head, HIDDEN)
        sizes[f"{prefix}.self_attn.o_proj.weight"] = (HIDDEN, HEADS * shape.head)
        if not shape.is_mixture(layer):
            mlp(f"{prefix}.mlp", shape.ffn)
            continue
        sizes[f"{prefix}.mlp.gate.weight"] = (shape.experts, HIDDEN)
        for expert in range(shape.experts):
            mlp(f"{prefix}.mlp.experts.{expert}", shape.expert_ffn)
        if shape.shared_ffn:
            mlp(f"{prefix}.mlp.shared_experts", shape.shared_ffn)
    if not shape.tied:
        sizes["lm_head.weight"] = (VOCAB, HIDDEN)
    generator = torch.Generator().manual_seed(seed)
    # Rows and columns of very different size: a wrong scale or place shows.
    return {
        name: (torch.randn(n, k, generator=generator) * torch.rand(n, 1, generator=generator) * 0.1).bfloat16()
        for name, (n, k) in sizes.items()
    }


def quantizable(weights: dict[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """Those that a drafter quantizes; a tied embedding is the output head."""
    chosen = {name: w for name, w in weights.items() if name.endswith("_proj.weight") or name == "lm_head.weight"}
    return chosen | ({"lm_head.weight": weights["model.embed_tokens.weight"]} if shape.tied else {})


def load(model: nn.Module, weights: dict[str, Tensor], shape: Shape, state: Any) -> None:
    """Write this rank's slices of Hugging Face weights into a GPTModel; `state` is megatron.core.parallel_state."""
    tensor = (state.get_tensor_model_parallel_rank(), state.get_tensor_model_parallel_world_size())
    expert_tensor = (state.get_expert_tensor_parallel_rank(), state.get_expert_tensor_parallel_world_size())
    expert_rank = state.get_expert_model_parallel_rank()
    local_experts = shape.experts // state.get_expert_model_parallel_world_size()
    first_layer = state.get_pipeline_model_parallel_rank() * LAYERS // state.get_pipeline_model_parallel_world_size()
    written: set[str] = set()
    parameters = dict(model.named_parameters())

    def put(name: str, value: Tensor) -> None:
        assert parameters[name].shape == value.shape, (name, parameters[name].shape, value.shape)
        parameters[name].data.copy_(value)
        written.add(name)

    def put_mlp(name: str, hf: str, rank: int, size: int) -> None:
        names = ("gate_proj", "up_proj") if shape.gated else ("up_proj",)
        put(f"{name}.linear_fc1.weight", torch.cat([weights[f"{hf}.{x}.weight"].chunk(size)[rank] for x in names]))
        put(f"{name}.linear_fc2.weight", weights[f"{hf}.down_proj.weight"].chunk(size, dim=1)[rank])

    for local in range(LAYERS // state.get_pipeline_model_parallel_world_size()):
        name, layer = f"decoder.layers.{local}", first_layer + local
        hf = f"model.layers.{layer}"
        q, k, v = (weights[f"{hf}.self_attn.{x}_proj.weight"] for x in "qkv")
        groups = [torch.cat(part) for part in zip(q.chunk(GROUPS), k.chunk(GROUPS), v.chunk(GROUPS), strict=True)]
        rank, size = tensor
        put(f"{name}.self_attention.linear_qkv.weight", torch.cat(groups).chunk(size)[rank])
        put(f"{name}.self_attention.linear_proj.weight", weights[f"{hf}.self_attn.o_proj.weight"].chunk(size, 1)[rank])
        if not shape.is_mixture(layer):
            put_mlp(f"{name}.mlp", f"{hf}.mlp", rank, size)
            continue
        put(f"{name}.mlp.router.weight", weights[f"{hf}.mlp.gate.weight"])
        for expert in range(local_experts):
            whole = expert_rank * local_experts + expert
            put_mlp(f"{name}.mlp.experts.local_experts.{expert}", f"{hf}.mlp.experts.{whole}", *expert_tensor)
        if shape.shared_ffn:
            put_mlp(f"{name}.mlp.shared_experts", f"{hf}.mlp.shared_experts", rank, size)
    head = weights["model.embed_tokens.weight" if shape.tied else "lm_head.weight"]
    for name, value in (
        ("embedding.word_embeddings.weight", weights["model.embed_tokens.weight"]),
        ("output_layer.weight", head),
    ):
        if name in parameters:
            padding = torch.full((PADDED_VOCAB - VOCAB, HIDDEN), 99.0, dtype=value.dtype)
            put(name, torch.cat([value, padding]).chunk(tensor[1])[tensor[0]])
    left = {name for name in parameters if name not in written and not name.endswith(("norm.weight", "bias"))}
    assert not left, left
