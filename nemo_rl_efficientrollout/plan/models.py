"""Architectures by name, as their config.json says, or from a folder of one's own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..drafter.shapes import ModelShape, model_shape
from ..errors import UserError, nearest
from ..files import read_json
from ..gate.model_constants import ModelConstants


def _config(
    kind: str, hidden: int, wide: int, layers: int, heads: int, kv: int, vocabulary: int, **more: Any
) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": hidden,
        "intermediate_size": wide,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocabulary,
        **more,
    }


_EXPERTS = {"num_experts": 128, "num_experts_per_tok": 8, "decoder_sparse_step": 1, "head_dim": 128}
MODELS: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b": _config("qwen2", 896, 4864, 24, 14, 2, 151936, tie_word_embeddings=True),
    "qwen2.5-1.5b": _config("qwen2", 1536, 8960, 28, 12, 2, 151936, tie_word_embeddings=True),
    "qwen2.5-7b": _config("qwen2", 3584, 18944, 28, 28, 4, 152064),
    "qwen2.5-14b": _config("qwen2", 5120, 13824, 48, 40, 8, 152064),
    "qwen2.5-32b": _config("qwen2", 5120, 27648, 64, 40, 8, 152064),
    "qwen2.5-72b": _config("qwen2", 8192, 29568, 80, 64, 8, 152064),
    "qwen3-4b": _config("qwen3", 2560, 9728, 36, 32, 8, 151936, tie_word_embeddings=True),
    "qwen3-8b": _config("qwen3", 4096, 12288, 36, 32, 8, 151936),
    "qwen3-14b": _config("qwen3", 5120, 17408, 40, 40, 8, 151936),
    "qwen3-32b": _config("qwen3", 5120, 25600, 64, 64, 8, 151936),
    "qwen3-30b-a3b": _config("qwen3_moe", 2048, 6144, 48, 32, 4, 151936, moe_intermediate_size=768, **_EXPERTS),
    "llama-3.1-8b": _config("llama", 4096, 14336, 32, 32, 8, 128256),
    "llama-3.1-70b": _config("llama", 8192, 28672, 80, 64, 8, 128256),
    "mixtral-8x7b": _config("mixtral", 4096, 14336, 32, 32, 8, 32000, num_local_experts=8, num_experts_per_tok=2),
}
"""The values of each model's config.json at Hugging Face."""


@dataclass(frozen=True)
class Model:
    """A policy."""

    name: str
    config: Mapping[str, Any]
    published: bool
    """Whether the configuration is one of `MODELS`, and not a file."""

    def shape(self, tensor_parallel: int) -> ModelShape:
        """Weights of one GPU. Raises UserError: what config.json lacks, or what does not divide."""
        return model_shape(self.config, tensor_parallel)

    @property
    def routed(self) -> float:
        """Share of the experts that one token is sent to; 0 without experts."""
        total = next((self.config[key] for key in ("num_experts", "num_local_experts") if key in self.config), 0)
        if not total:
            return 0.0
        chosen = self.config.get("num_experts_per_tok")
        if not isinstance(chosen, int) or not 1 <= chosen <= total:
            raise UserError(f"{self.name}: num_experts_per_tok is {chosen!r}, expected a number from 1 to {total}")
        return chosen / total

    def constants(self, tensor_parallel: int, byte_ratio: float) -> ModelConstants:
        """What the gate's prior wants to know; of experts those that one token is sent to."""
        linears = {linear.name: linear for linear in self.shape(tensor_parallel).linears}
        heads = self.config["num_attention_heads"]
        hidden = linears["o_proj"].rows[0]
        # As wide as a dense layer that reads as many weights for one token.
        wide = sum(x.weights * x.count for x in linears.values() if x.part in ("gate_up", "down", "shared expert"))
        wide += self.routed * sum(x.weights * x.count for x in linears.values() if x.part == "experts")
        layers = self.config["num_hidden_layers"]
        return ModelConstants.model_validate(
            {
                "model": self.name,
                "D": hidden,
                "D_ff": round(wide * tensor_parallel / (3 * hidden * layers)),
                "L": layers,
                "n_heads": heads,
                "n_kv": self.config.get("num_key_value_heads") or heads,
                "d_h": linears["o_proj"].columns * tensor_parallel // heads,
                "V": linears["lm_head"].rows[0] * tensor_parallel,
                "tp": tensor_parallel,
                "quant_ratio": byte_ratio,
            }
        )


def read_model(name: str) -> Model:
    """A model of `MODELS`, or the folder of one.

    Raises:
        UserError: neither, with the nearest name; a config.json that cannot be read.
    """
    path = Path(name)
    if path.is_dir():
        return Model(path.resolve().name, read_json(path / "config.json", "give the folder of a model"), False)
    short = name.lower().rsplit("/", 1)[-1].removesuffix("-instruct").removesuffix("-base")
    if short in MODELS:
        return Model(short, MODELS[short], True)
    raise UserError(
        f"unknown model '{name}'{nearest(short, MODELS)}; give the folder of a model, or one of {', '.join(MODELS)}"
    )
