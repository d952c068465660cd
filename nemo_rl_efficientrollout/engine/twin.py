"""The twin: the policy's architecture built a second time around the policy's own parts.

Attention objects, embeddings, norms and activations are the target's objects, so the twin reads and writes the
target's KV cache: vLLM's attention finds cache, metadata and slots by the layer's name at run time. Only linear
weights are new, and with format `bf16` not even those.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from vllm.compilation.backends import set_model_tag
from vllm.config import VllmConfig
from vllm.logger import init_logger
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.fused_moe.router.gate_linear import GateLinear
from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, UnquantizedEmbeddingMethod
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.utils.torch_utils import set_default_torch_dtype

from ..config import KEY, DrafterSettings
from ..drafter.formats import Quantized, format_named
from ..errors import UnsupportedError
from .compat.present import present
from .kernels import EXPERT_WEIGHTS, DraftExperts, DraftLinear, new_experts, new_linear
from .refusals import refuse_unsupported

PREFIX = "efficientrollout_twin"
LEAST_ROWS = 16
"""Output channels below which a layer is a switch: to quantize it saves nothing."""
logger = init_logger("vllm.efficientrollout")


@dataclass(frozen=True, slots=True)
class DraftLayer:
    """A layer of the policy and its quantized copy."""

    path: str
    """Of the policy's layer, such as `model.layers.0.self_attn.qkv_proj`."""
    source: Any
    method: DraftLinear | DraftExperts

    @property
    def layer(self) -> nn.Module:
        """The twin's."""
        return self.method.layer

    def weights(self) -> list[Tensor]:
        """The policy's matrices, in the order that `fill` takes."""
        if isinstance(self.method, DraftExperts):
            return [weight for name in EXPERT_WEIGHTS for weight in getattr(self.source, name)]
        return [self.source.weight]

    def refill(self) -> Tensor:
        """Quantize the policy's present weights; returns whether all were finite, a scalar on the device."""
        return self.method.refill(self.source)

    def fill(self, matrices: list[Quantized]) -> Tensor:
        """Take weights that were quantized elsewhere: of a linear layer one, of experts w13 of each, then w2 of each.
        Returns whether all were finite, a scalar on the device."""
        return self.method.fill(matrices, self.source)


@dataclass
class Twin:
    """The drafter's model and the layers of it that own weights."""

    model: nn.Module
    attention_names: set[str]
    """Names of the target's attention layers, which are the twin's as well."""
    quantized: list[DraftLayer] = field(default_factory=list)

    def tensors(self) -> Iterator[Tensor]:
        """What the drafter owns."""
        for layer in self.quantized:
            yield from layer.method.tensors()


def build_twin(vllm_config: VllmConfig, target: nn.Module, settings: DrafterSettings) -> Twin:
    """Build the twin of `target`; its quantized layers are empty until they are filled.

    Raises:
        UnsupportedError: naming what of this model or set-up the twin cannot share.
    """
    refuse_unsupported(vllm_config)
    forward_context = vllm_config.compilation_config.static_forward_context
    attention = {name for name, layer in forward_context.items() if isinstance(layer, Attention)}
    with _leaving_no_names(forward_context) as kept:
        twin = Twin(_empty_copy(vllm_config), attention)
        parts = dict(target.named_modules(remove_duplicate=False))
        _share_parts(twin, twin.model, parts, settings, path="")
        _refuse_unfilled(twin.model)
        kept |= {name for name, layer in forward_context.items() if isinstance(layer, MoERunner)}  # found by own names
    return twin


@contextmanager
def _leaving_no_names(forward_context: dict[str, Any]) -> Iterator[set[str]]:
    """Take out what the block registers, but for the names that it put into the set: vLLM would hold a twin that came
    to nothing, and reserve a KV cache for its attention."""
    kept = set(forward_context)
    try:
        yield kept
    finally:
        for name in set(forward_context) - kept:
            del forward_context[name]


def twin_config(vllm_config: VllmConfig) -> VllmConfig:
    """The target's configuration under another compile-cache key.

    vLLM keys compiled graphs by its configuration: with the target's key, one of the two would run the other's graph.
    """
    config = copy.copy(vllm_config)
    config.additional_config = {**config.additional_config, f"{KEY}_part": PREFIX}  # type: ignore[dict-item]
    return config


def _empty_copy(vllm_config: VllmConfig) -> nn.Module:
    """The target's architecture without storage."""
    with (
        set_default_torch_dtype(vllm_config.model_config.dtype),
        set_model_tag(PREFIX),
        torch.device("meta"),
    ):
        return initialize_model(twin_config(vllm_config), prefix=PREFIX)


def _share_parts(
    twin: Twin, module: nn.Module, parts: dict[str, nn.Module], settings: DrafterSettings, path: str
) -> None:
    for name, child in list(module.named_children()):
        here = f"{path}{name}"
        source = parts.get(here)
        if source is None:
            raise UnsupportedError(f"the policy has no layer '{here}' for the drafter to share")
        if isinstance(child, MoERunner) and settings.format != "bf16":
            _own_experts(twin, here, child, source, settings)
        elif isinstance(child, LinearBase) and _can_quantize(here, source, settings):
            _own_weight(twin, here, child, source, settings)
        elif isinstance(child, ParallelLMHead) and settings.lm_head and _can_quantize(here, source, settings):
            setattr(module, name, _own_head(twin, here, source, settings))
        elif isinstance(child, Attention | LinearBase | LogitsProcessor | MoERunner) or not any(child.children()):
            setattr(module, name, source)
        else:
            child._parameters.update(source._parameters)  # what hangs on a branch and not on a leaf
            child._buffers.update(source._buffers)
            _share_parts(twin, child, parts, settings, f"{here}.")


def _can_quantize(path: str, source: Any, settings: DrafterSettings) -> bool:
    """Whether the format's kernels take this layer. One that they do not take is shared with the policy."""
    if settings.format == "bf16":
        return False
    if not isinstance(source.quant_method, UnquantizedLinearMethod | UnquantizedEmbeddingMethod):
        raise UnsupportedError(
            f"layer '{path}' of the policy is quantized already ({type(source.quant_method).__name__}):"
            " serve the policy unquantized, or set drafter.format to 'bf16'"
        )
    rows, columns = source.weight.shape
    if rows < LEAST_ROWS or isinstance(source, GateLinear):
        return False
    form = format_named(settings.format)
    parts = getattr(source, "output_partition_sizes", None) or [rows]  # q, k and v; gate and up
    refusal = next(filter(None, (form.refusal(part, columns) for part in parts)), None)
    if refusal is not None:
        logger.warning("The drafter computes layer '%s' as the policy does: %s for %s", path, refusal, form.name)
    return refusal is None


def _own_weight(twin: Twin, path: str, layer: LinearBase, source: nn.Module, settings: DrafterSettings) -> None:
    for name in list(layer._parameters):
        delattr(layer, name)
    layer.register_parameter("bias", source.bias)  # type: ignore[arg-type]
    method = new_linear(layer, settings)
    layer.quant_method = method
    twin.quantized.append(DraftLayer(path, source, method))


def _own_experts(twin: Twin, path: str, runner: Any, source: Any, settings: DrafterSettings) -> None:
    """Routers decide on the policy's own numbers; experts, and shared experts as far as they are linear, are copies."""
    runner.router = source.router
    layer, theirs = runner.routed_experts, source.routed_experts
    for name, child in source.named_children():
        if name in ("gate", "shared_expert_gate"):
            setattr(runner, name, child)
    for name, buffer in theirs._buffers.items():
        layer.register_buffer(name, buffer, persistent=False)
    layer._parameters.clear()
    present.share_routing(layer, theirs)
    here = f"{path}.routed_experts"
    method = new_experts(here, layer, theirs, settings)
    twin.quantized.append(DraftLayer(here, theirs, method))


def _own_head(twin: Twin, path: str, source: nn.Module, settings: DrafterSettings) -> nn.Module:
    """A head with the target's geometry and its own weight. A head that is tied to the embedding is untied by this."""
    head = copy.copy(source)
    head._parameters = {"bias": source._parameters.get("bias")}
    method = new_linear(head, settings)
    head.quant_method = method  # type: ignore[assignment]
    twin.quantized.append(DraftLayer(path, source, method))
    return head


def _refuse_unfilled(model: nn.Module) -> None:
    """A tensor left without storage would be read as garbage."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        if tensor.is_meta:
            raise UnsupportedError(f"tensor '{name}' of this architecture cannot be shared with the drafter")
