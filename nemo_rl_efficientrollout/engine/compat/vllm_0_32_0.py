"""What is particular to vLLM 0.32.0. Same names as in every other `vllm_*.py`; `present` chooses."""

from typing import Any

import torch
from vllm.model_executor.kernels.linear import MPLinearLayerConfig
from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.platforms import current_platform

from ...patching import wrap
from .cpu_experts import EXPERT_WEIGHTS
from .ours import builds_ours


def mixed_precision_config(**settings: Any) -> MPLinearLayerConfig:
    """Of a linear layer whose four-bit weights are in the order of the checkpoint."""
    return MPLinearLayerConfig(**settings)


def new_online_experts(method: Any, layer: RoutedExperts) -> Any:
    """`method`, a class for experts that are quantized while they are loaded, for `layer`."""
    return method(moe=layer.moe_config)


def forget_copies(metadata: Any) -> None:
    """Sequence lengths in `metadata` were changed in place. It keeps no copies of them."""


def share_routing(layer: RoutedExperts, source: RoutedExperts) -> None:
    """Experts of the twin route as the policy's: they ask the router, which is the policy's."""


def keep_expert_originals() -> None:
    """Let experts of engines that this package drives be packed beside their kernel, on CPU only."""
    if current_platform.is_cpu():
        wrap(CPUUnquantizedExperts, "process_weights_after_loading", _keeping_originals)
        wrap(CPUUnquantizedExperts, "apply", _using_packed)


def pack_experts_again(layer: RoutedExperts) -> None:
    """Rebuild the packed weights of `layer` from its present ones. A no-op where none were kept."""
    kernel: Any = getattr(layer.quant_method, "moe_kernel", None)
    if kernel is not None and hasattr(kernel.fused_experts, "packed"):
        kernel.fused_experts.process_weights_after_loading(layer)


def _keeping_originals(original: Any) -> Any:
    def process_weights_after_loading(experts: Any, layer: Any) -> None:
        if not hasattr(experts, "packed") and not builds_ours():
            original(experts, layer)
            return
        kept = [getattr(layer, name) for name in EXPERT_WEIGHTS]
        for name, weight in zip(EXPERT_WEIGHTS, kept, strict=True):
            layer.register_parameter(name, torch.nn.Parameter(weight.detach().clone(), requires_grad=False))
        original(experts, layer)
        packed = [getattr(layer, name).data for name in EXPERT_WEIGHTS]
        if hasattr(experts, "packed"):  # compiled graphs hold its addresses
            for old, new in zip(experts.packed, packed, strict=True):
                old.copy_(new)
        else:
            experts.packed = packed
        for name, weight in zip(EXPERT_WEIGHTS, kept, strict=True):
            layer.register_parameter(name, weight)

    return process_weights_after_loading


def _using_packed(original: Any) -> Any:
    def apply(experts: Any, output: Any, hidden_states: Any, w1: Any, w2: Any, *args: Any, **kwargs: Any) -> None:
        w1, w2 = getattr(experts, "packed", (w1, w2))
        original(experts, output, hidden_states, w1, w2, *args, **kwargs)

    return apply
