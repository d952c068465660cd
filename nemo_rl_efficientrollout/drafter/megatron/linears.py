"""Finds the quantizable linears of a Megatron GPT model, and says what they are called in Hugging Face's.

Classes are told by name, so that neither megatron-core nor Transformer Engine is imported. What is not known is
refused: a weight left out, or under a wrong name, would make a drafter that silently drafts badly. Names follow
Megatron-Bridge's mappings (https://github.com/NVIDIA-NeMo/Megatron-Bridge, models/*/…_bridge.py).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UnsupportedError
from .groups import Groups, Ranks
from .rows import Band, Stack

COLUMN, ROW = "column", "row"
"""Which side of the layer is split: outputs (rows of the weight) or inputs (columns of the weight)."""
CLASSES = {
    "ColumnParallelLinear": COLUMN,
    "TEColumnParallelLinear": COLUMN,
    "TELayerNormColumnParallelLinear": COLUMN,
    "InferenceLayerNormColumnParallelLinear": COLUMN,
    "InferenceColumnParallelLinear": COLUMN,
    "TEColumnParallelGroupedLinear": COLUMN,
    "RowParallelLinear": ROW,
    "TERowParallelLinear": ROW,
    "InferenceRowParallelLinear": ROW,
    "TERowParallelGroupedLinear": ROW,
}
PLACE = re.compile(
    r"(?:decoder\.layers\.(?P<layer>\d+)\.)"
    r"(?P<block>self_attention|mlp|mlp\.shared_experts|mlp\.experts(?:\.local_experts\.(?P<expert>\d+))?)"
    r"\.(?P<linear>linear_qkv|linear_proj|linear_fc1|linear_fc2)"
)
SPLITS = {"linear_qkv": COLUMN, "linear_proj": ROW, "linear_fc1": COLUMN, "linear_fc2": ROW}
HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Linear:
    """One weight matrix of Megatron's, of which this rank holds a shard."""

    path: str
    """In the Megatron model, for error lines."""
    layer: int | None
    """Counted from 0 over all pipeline stages; None for the output head."""
    is_expert: bool
    split: str
    stack: Stack
    """Rows of the gathered weight."""
    parameter: Tensor
    """The shard. Its storage may be moved between refits, so it is looked at when it is used."""
    ranks: Ranks
    """Over which it is split."""


def linears(model: nn.Module | Iterable[nn.Module], groups: Groups, vocab_size: int | None) -> Iterator[Linear]:
    """Every quantizable weight of this rank, in the order of the model. `model`: a GPTModel, wrapped or not, or the
    chunks of a virtual pipeline. `vocab_size`: rows of the output head without padding; None leaves the head out.
    Raises UnsupportedError naming a module that is not understood."""
    for chunk in [model] if isinstance(model, nn.Module) else model:
        root = _unwrap(chunk)
        for path, module in root.named_modules():
            if path == "output_layer" or path.startswith("mtp."):  # multi-token prediction drafts for itself
                continue
            if _split_of(path, module) is not None:
                yield from _of_layer(root, path, module, groups)
        if vocab_size is not None and getattr(root, "post_process", True):
            yield _head(root, groups.tensor, vocab_size)


def _unwrap(model: nn.Module) -> nn.Module:
    """Without Float16Module, DistributedDataParallel and the like."""
    while isinstance(inner := getattr(model, "module", None), nn.Module):
        model = inner
    return model


def _split_of(path: str, module: nn.Module) -> str | None:
    """COLUMN or ROW for a parallel linear, None for anything that is not a linear."""
    for base in type(module).__mro__:
        if base.__name__ in CLASSES:
            return CLASSES[base.__name__]
    name = type(module).__name__
    if name.endswith(("Linear", "LinearGathered")) or name == "GroupedMLP":
        raise UnsupportedError(
            f"'{path}' is a {name}, which is not understood: expected {', '.join(CLASSES)}; "
            "let the engine quantize the gathered weights instead"
        )
    return None


def _of_layer(root: nn.Module, path: str, module: nn.Module, groups: Groups) -> Iterator[Linear]:
    match = PLACE.fullmatch(path)
    if match is None or _split_of(path, module) != SPLITS[match["linear"]]:
        raise UnsupportedError(
            f"'{path}' ({type(module).__name__}) has no known Hugging Face name: expected grouped-query self-attention "
            "and MLPs of a GPT model; let the engine quantize the gathered weights instead"
        )
    layer: Any = root.get_submodule(f"decoder.layers.{match['layer']}")
    is_expert = match["block"].startswith("mlp.experts")
    ranks = groups.expert_tensor if is_expert else groups.tensor
    for block, attribute in _blocks(layer, match, module):
        prefix = f"model.layers.{layer.layer_number - 1}.{block}"
        parameter = _parameter(f"{path}.{attribute}", getattr(module, attribute, None))
        owner: Any = root.get_submodule(path.rpartition(".")[0])
        stack = _stack(prefix, match["linear"], parameter, ranks.size, owner.config)
        split = SPLITS[match["linear"]]
        whole = parameter.shape[0] * (ranks.size if split == COLUMN else 1)
        if stack.rows != whole:
            raise UnsupportedError(
                f"'{path}' has {whole} rows over {ranks.size} ranks, {stack.rows} expected of its configuration "
                "(gated attention is not supported); let the engine quantize the gathered weights instead"
            )
        yield Linear(f"{path}.{attribute}", layer.layer_number - 1, is_expert, split, stack, parameter, ranks)


def _blocks(layer: Any, match: re.Match[str], module: nn.Module) -> Iterator[tuple[str, str]]:
    """(Hugging Face block, attribute of the weight); of a grouped linear, one for each local expert."""
    if match["block"] == "mlp.experts":
        for local, expert in enumerate(layer.mlp.local_expert_indices):
            yield f"mlp.experts.{expert}", f"weight{local}"
    elif match["expert"] is not None:
        yield f"mlp.experts.{layer.mlp.local_expert_indices[int(match['expert'])]}", "weight"
    elif match["block"] == "mlp.shared_experts":
        # Qwen's has a gate and a name in the singular; DeepSeek's and GLM's have neither.
        gated = getattr(layer.mlp.shared_experts, "gate_weight", None) is not None
        yield f"mlp.shared_expert{'' if gated else 's'}", "weight"
    else:
        yield {"self_attention": "self_attn", "mlp": "mlp"}[match["block"]], "weight"


def _stack(prefix: str, linear: str, parameter: Tensor, ranks: int, config: Any) -> Stack:
    rows = parameter.shape[0]
    if linear == "linear_qkv":
        queries = config.num_attention_heads // config.num_query_groups * config.kv_channels
        heights = zip("qkv", (queries, config.kv_channels, config.kv_channels), strict=True)
        return Stack(tuple(Band(f"{prefix}.{x}_proj.weight", h) for x, h in heights), config.num_query_groups)
    if linear == "linear_fc1" and config.gated_linear_unit:
        return Stack(tuple(Band(f"{prefix}.{x}_proj.weight", rows // 2) for x in ("gate", "up")), ranks)
    if linear == "linear_fc1":
        return Stack((Band(f"{prefix}.up_proj.weight", rows * ranks),))
    return Stack((Band(f"{prefix}.{'o' if linear == 'linear_proj' else 'down'}_proj.weight", rows),))


def _head(root: Any, ranks: Ranks, vocab_size: int) -> Linear:
    layer = getattr(root, "output_layer", None)
    if layer is not None and _split_of("output_layer", layer) != COLUMN:
        raise UnsupportedError(f"'output_layer' is a {type(layer).__name__}: a column-parallel language head expected")
    path, weight = "output_layer.weight", getattr(layer, "weight", None)
    if weight is None:  # tied, and the embedding is on this stage
        path, weight = "embedding.word_embeddings.weight", root.embedding.word_embeddings.weight
    parameter = _parameter(path, weight)
    padded = parameter.shape[0] * ranks.size
    if vocab_size > padded:
        raise UnsupportedError(
            f"'{path}' has {padded} rows, fewer than the vocabulary of {vocab_size}: pass its true size"
        )
    stack = Stack((Band(HEAD, vocab_size), Band(None, padded - vocab_size)))
    return Linear(path, None, False, COLUMN, stack, parameter, ranks)


def _parameter(path: str, weight: Any) -> Tensor:
    if not isinstance(weight, Tensor):
        raise UnsupportedError(f"'{path}' does not exist: one matrix per linear or expert expected")
    kind = type(weight)  # Transformer Engine's and FSDP's own classes pass for BF16
    if kind not in (Tensor, nn.Parameter) or not weight.is_floating_point() or weight.dtype.itemsize < 2:
        raise UnsupportedError(
            f"'{path}' is a {weight.dtype} {kind.__name__}: a plain tensor of BF16, FP16 or FP32 expected"
        )
    return weight


def device_of(model: nn.Module | Iterable[nn.Module]) -> torch.device:
    """Where the first parameter lives."""
    chunks = [model] if isinstance(model, nn.Module) else model
    return next(parameter.device for chunk in chunks for parameter in chunk.parameters())
