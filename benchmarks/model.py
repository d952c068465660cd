"""Random Qwen2-type models of a chosen shape: time depends on the shape, not on what was learned.

Acceptance does depend on it. A random head gives almost flat distributions; `sharpness` scales it until the
model is about as sure of its next token as a language model is. What is accepted stays a property of noise.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shape:
    """Sizes of a Qwen2-type decoder, in elements."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def linear_weights(self) -> int:
        """Weights that every decoded token reads: all linear layers and the output head."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        mlp = 3 * self.hidden * self.intermediate
        return self.layers * (attention + mlp) + self.vocabulary * self.hidden

    @property
    def output_channels(self) -> int:
        """Rows of those weights; each has one float32 scale in the int8 copy."""
        qkv = self.head_dim * (self.heads + 2 * self.kv_heads)
        per_layer = qkv + self.hidden + 2 * self.intermediate + self.hidden
        return self.layers * per_layer + self.vocabulary

    @property
    def byte_ratio(self) -> float:
        """Weight bytes that an int8 drafter reads per token over those of the BF16 target."""
        return (self.linear_weights + 4 * self.output_channels) / (2 * self.linear_weights)

    def describe(self) -> dict[str, int]:
        """For the record."""
        return asdict(self) | {"head_dim": self.head_dim, "linear_weights": self.linear_weights}


SHAPES = {
    "tiny": Shape(128, 2, 4, 2, 256, 256),
    "small": Shape(256, 4, 8, 4, 1024, 4096),
    "0.5b": Shape(896, 24, 14, 2, 4864, 32000),
}
"""`0.5b` is Qwen2-0.5B but for its vocabulary, cut from 151,936 to keep memory modest."""


def save_random_model(directory: Path, shape: Shape, sharpness: float = 1.0, seed: int = 0) -> Path:
    """Write a BF16 checkpoint without tokenizer and return `directory`.

    Built tensor by tensor: `transformers` would hold a float32 copy and take most of a minute at 0.5B.
    """
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int, std: float = 0.02) -> torch.Tensor:
        return torch.randn(*size, generator=generator).mul_(std).to(torch.bfloat16)

    kv, hidden = shape.kv_heads * shape.head_dim, shape.hidden
    ones = torch.ones(hidden, dtype=torch.bfloat16)
    tensors = {
        "model.embed_tokens.weight": normal(shape.vocabulary, hidden),
        "model.norm.weight": ones,
        "lm_head.weight": normal(shape.vocabulary, hidden, std=0.02 * sharpness),
    }
    for index in range(shape.layers):
        layer = f"model.layers.{index}"
        tensors[f"{layer}.input_layernorm.weight"] = ones.clone()
        tensors[f"{layer}.post_attention_layernorm.weight"] = ones.clone()
        for name, rows in (("q", hidden), ("k", kv), ("v", kv)):
            tensors[f"{layer}.self_attn.{name}_proj.weight"] = normal(rows, hidden)
            tensors[f"{layer}.self_attn.{name}_proj.bias"] = normal(rows)
        tensors[f"{layer}.self_attn.o_proj.weight"] = normal(hidden, hidden)
        tensors[f"{layer}.mlp.gate_proj.weight"] = normal(shape.intermediate, hidden)
        tensors[f"{layer}.mlp.up_proj.weight"] = normal(shape.intermediate, hidden)
        tensors[f"{layer}.mlp.down_proj.weight"] = normal(hidden, shape.intermediate)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(_config(shape)))
    return directory


def _config(shape: Shape) -> dict[str, object]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "intermediate_size": shape.intermediate,
        "vocab_size": shape.vocabulary,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
