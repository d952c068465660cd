"""The weights of a model, from its config.json alone, as one GPU of a tensor-parallel vLLM holds them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UnsupportedError, UserError, nearest, shown

LARGEST = 10**9
"""Of any side or count of a model."""
VOCABULARY_MULTIPLE = 64
"""vLLM pads the vocabulary to this before it divides it among GPUs."""


@dataclass(frozen=True, slots=True)
class Family:
    """What config.json does not say about a type of model."""

    qkv_bias: bool = False
    """Of the query, key and value projections, where the configuration has no `qkv_bias` or `attention_bias`."""
    head_norms: bool = False
    """Norms of queries and keys, one weight per element of a head."""
    head_dim: int | None = None
    """Where the configuration has none; None is hidden_size / num_attention_heads."""


FAMILIES = {
    "llama": Family(),
    "mistral": Family(),
    "mixtral": Family(),
    "qwen2": Family(qkv_bias=True),
    "qwen2_moe": Family(qkv_bias=True),
    "qwen3": Family(head_norms=True, head_dim=128),
    "qwen3_moe": Family(head_norms=True),
}
"""By `model_type`."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A weight matrix [N, K] that occurs `count` times."""

    name: str
    """As vLLM names the layer."""
    part: str
    """Of the model, for people."""
    rows: tuple[int, ...]
    """Output channels of each matrix that is merged into this one, such as q, k and v; N is their sum."""
    columns: int
    """K."""
    count: int
    bias: bool = False
    quantized: bool = True
    """Whether a drafter has its own copy: one of a router would save nothing, and send tokens to other experts."""

    @property
    def weights(self) -> int:
        """Of one occurrence, without its bias."""
        return sum(self.rows) * self.columns


@dataclass(frozen=True, slots=True)
class ModelShape:
    """All weights of one GPU."""

    linears: tuple[Linear, ...]
    """The output head is the last, and has its own weights in the policy only where `tied` is false."""
    embedding: int
    """Weights of the token embedding."""
    norms: int
    """Weights of all norms."""
    tied: bool
    """Whether the policy's output head is its embedding."""


def model_shape(config: Mapping[str, Any], tensor_parallel: int = 1) -> ModelShape:
    """The weights that one of `tensor_parallel` GPUs holds.

    Args:
        config: config.json of Hugging Face, as a mapping.
        tensor_parallel: GPUs that share each layer; with more of them than key-value heads, the heads are repeated.

    Raises:
        UnsupportedError: a type of model that is not in `FAMILIES`, or one that is quantized already.
        UserError: a key is missing or no positive whole number, or a side does not divide among the GPUs.
    """
    family = _family(config)
    read = _Reader(config, tensor_parallel)
    hidden, layers = read.number("hidden_size"), read.number("num_hidden_layers")
    heads = read.number("num_attention_heads")
    head_dim = read.number("head_dim", default=family.head_dim or hidden // heads)
    q_rows = head_dim * read.share("num_attention_heads")
    kv_rows = head_dim * read.key_value_heads(heads)
    attention_bias = bool(config.get("attention_bias", False))
    qkv_bias = bool(config.get("qkv_bias", attention_bias or family.qkv_bias))
    vocabulary = read.vocabulary()
    linears = (
        Linear("qkv_proj", "attention qkv", (q_rows, kv_rows, kv_rows), hidden, layers, qkv_bias),
        Linear("o_proj", "attention o", (hidden,), q_rows, layers, attention_bias),
        *_feed_forward(config, read, hidden, layers),
        Linear("lm_head", "lm_head", (vocabulary,), hidden, 1),
    )
    norms = hidden * (2 * layers + 1) + (2 * head_dim * layers if family.head_norms else 0)
    return ModelShape(linears, vocabulary * hidden, norms, bool(config.get("tie_word_embeddings", False)))


def _family(config: Mapping[str, Any]) -> Family:
    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise UserError(f"config.json has no model_type; expected one of {', '.join(FAMILIES)}")
    if kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UnsupportedError(
            f"config.json: model_type '{kind}' is not known{nearest(kind, FAMILIES)}; known: {known}"
        )
    if config.get("quantization_config"):
        raise UnsupportedError("config.json has a quantization_config: give the unquantized policy")
    return FAMILIES[kind]


def _feed_forward(config: Mapping[str, Any], read: "_Reader", hidden: int, layers: int) -> list[Linear]:
    bias = bool(config.get("mlp_bias", False))
    count = 0
    if config["model_type"] == "mixtral" or config["model_type"].endswith("_moe"):
        count = _sparse_layers(config, read, layers)
    found = []
    if count < layers:
        width = read.share("intermediate_size")
        found += _gated("gate_up_proj", "down_proj", ("gate_up", "down"), width, hidden, layers - count, bias)
    if count:
        experts = read.number("num_experts", "num_local_experts")
        width = read.share("intermediate_size" if config["model_type"] == "mixtral" else "moe_intermediate_size")
        found += _gated("experts.w13", "experts.w2", ("experts", "experts"), width, hidden, experts * count)
        if config.get("shared_expert_intermediate_size"):
            width = read.share("shared_expert_intermediate_size")
            names = "shared_expert.gate_up_proj", "shared_expert.down_proj"
            found += _gated(*names, ("shared expert", "shared expert"), width, hidden, count)
            found.append(Linear("shared_expert_gate", "router", (1,), hidden, count, quantized=False))
        found.append(Linear("gate", "router", (experts,), hidden, count, quantized=False))
    return found


def _gated(
    up: str, down: str, parts: tuple[str, str], width: int, hidden: int, count: int, bias: bool = False
) -> list[Linear]:
    return [
        Linear(up, parts[0], (width, width), hidden, count, bias),
        Linear(down, parts[1], (hidden,), width, count, bias),
    ]


def _sparse_layers(config: Mapping[str, Any], read: "_Reader", layers: int) -> int:
    """Layers with experts: every `decoder_sparse_step`-th, but for `mlp_only_layers`."""
    step = read.number("decoder_sparse_step", default=1) if config.get("decoder_sparse_step") else 1
    dense = config.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(isinstance(index, int) for index in dense):
        raise UserError(f"config.json: mlp_only_layers is {shown(dense)}, expected a list of layers")
    return layers // step - sum((index + 1) % step == 0 for index in set(dense) if 0 <= index < layers)


class _Reader:
    """Positive whole numbers of config.json, and one GPU's share of them."""

    def __init__(self, config: Mapping[str, Any], tensor_parallel: int) -> None:
        self.config, self.tensor_parallel = config, tensor_parallel

    def number(self, *keys: str, default: int | None = None) -> int:
        """The value of the first of `keys` that is there."""
        key = next((key for key in keys if self.config.get(key) is not None), keys[0])
        value = self.config.get(key)
        if value is None:
            value = default
        if value is None:
            raise UserError(f"config.json has no {' or '.join(keys)}{nearest(key, self.config)}")
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= LARGEST:
            raise UserError(f"config.json: {key} is {shown(value)}, expected a whole number of at least 1")
        return value

    def share(self, key: str) -> int:
        return self._divided(key, self.number(key))

    def key_value_heads(self, heads: int) -> int:
        total = self.number("num_key_value_heads", default=heads)
        if total >= self.tensor_parallel:
            return self._divided("num_key_value_heads", total)
        if self.tensor_parallel % total:
            raise UserError(f"config.json: {self.tensor_parallel} GPUs do not divide among num_key_value_heads {total}")
        return 1

    def vocabulary(self) -> int:
        """This GPU's rows of the embedding, padding included."""
        padded = -(-self.number("vocab_size") // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
        return self._divided("vocab_size, padded,", padded)

    def _divided(self, key: str, size: int) -> int:
        if size % self.tensor_parallel:
            raise UserError(f"config.json: {key} {size} does not divide among {self.tensor_parallel} GPUs")
        return size // self.tensor_parallel
