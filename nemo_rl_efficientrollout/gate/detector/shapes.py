"""The weight matrices that a decode step reads, from a model's config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import UserError, nearest, shown

LARGEST = 10**9
"""Of any side or count of a model."""
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Keys by which configurations of mixtures of experts are known."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """A weight matrix [N, K] that occurs `count` times in the model."""

    name: str
    out_features: int
    """N."""
    in_features: int
    """K."""
    count: int

    def __post_init__(self) -> None:
        for key in ("out_features", "in_features", "count"):
            value = getattr(self, key)
            if not _is_positive(value):
                raise UserError(f"layer {self.name!r}: {key} is {shown(value)}, expected a whole number of at least 1")

    @property
    def weights(self) -> int:
        """Weights in one occurrence."""
        return self.out_features * self.in_features


def layer_shapes(hf_config: Mapping[str, Any], tensor_parallel: int = 1) -> list[LayerShape]:
    """Fused layers of one GPU of a dense Llama-, Qwen2- or Qwen3-type model, as vLLM runs them.

    Args:
        hf_config: config.json of Hugging Face, as a mapping.
        tensor_parallel: GPUs that share each layer. With more GPUs than key-value heads, the heads are repeated.

    Raises:
        UserError: a key is missing or no positive whole number, a side does not divide, or the model has experts.
    """
    if not _is_positive(tensor_parallel):
        raise UserError(f"tensor_parallel is {tensor_parallel!r}, expected a whole number of at least 1")
    experts = next((key for key in EXPERTS if hf_config.get(key)), None)
    if experts is not None:
        raise UserError(f"config.json has {experts}: the layers of a mixture of experts are not supported")
    hidden = _read(hf_config, "hidden_size")
    layers = _read(hf_config, "num_hidden_layers")
    heads = _read(hf_config, "num_attention_heads")
    # The two that Hugging Face lets a configuration leave out.
    kv_heads = _read(hf_config, "num_key_value_heads", default=heads)
    head_dim = _read(hf_config, "head_dim", default=hidden // heads)
    own_heads = _part(heads, tensor_parallel, "num_attention_heads")
    own_kv_heads = 1 if kv_heads < tensor_parallel else _part(kv_heads, tensor_parallel, "num_key_value_heads")
    intermediate = _part(_read(hf_config, "intermediate_size"), tensor_parallel, "intermediate_size")
    vocabulary = -(-_read(hf_config, "vocab_size") // tensor_parallel)
    return [
        LayerShape("qkv", (own_heads + 2 * own_kv_heads) * head_dim, hidden, layers),
        LayerShape("o", hidden, own_heads * head_dim, layers),
        LayerShape("gate_up", 2 * intermediate, hidden, layers),
        LayerShape("down", hidden, intermediate, layers),
        LayerShape("lm_head", vocabulary, hidden, 1),
    ]


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST


def _read(hf_config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = hf_config.get(key)
    if value is None:
        value = default
    if value is None:
        raise UserError(f"config.json has no {key}{nearest(key, hf_config)}")
    if not _is_positive(value):
        raise UserError(f"config.json: {key} is {shown(value)}, expected a whole number of at least 1")
    return value


def _part(size: int, tensor_parallel: int, key: str) -> int:
    if size % tensor_parallel:
        raise UserError(f"config.json: {key} {size} does not divide among {tensor_parallel} GPUs")
    return size // tensor_parallel
