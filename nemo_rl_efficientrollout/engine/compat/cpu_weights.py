"""vLLM on CPU packs weights into oneDNN after loading and drops the originals: nothing could be refitted.

Keep them (one more copy in RAM) and pack again after every refit. Remove when vLLM-CPU can reload weights itself.
"""

from typing import Any

import torch
from vllm.model_executor.layers import utils as layer_utils
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.platforms import current_platform

from ...patching import wrap
from .ours import builds_ours
from .present import present

_MARK = "_efficientrollout_keeps_weight"
"""On a layer once it was kept: vLLM 0.25.1 reloads weights without saying of which engine."""


def install() -> None:
    """Keep the weights of engines that this package drives."""
    if current_platform.is_cpu():
        wrap(layer_utils, "dispatch_cpu_unquantized_gemm", _keeping_weights)


def _keeping_weights(original: Any) -> Any:
    def dispatch_cpu_unquantized_gemm(layer: torch.nn.Module, remove_weight: bool) -> None:
        kept = hasattr(layer, _MARK) or builds_ours()
        if kept:
            setattr(layer, _MARK, True)
        original(layer, remove_weight=remove_weight and not kept)

    return dispatch_cpu_unquantized_gemm


def pack_again(model: torch.nn.Module) -> None:
    """Rebuild the packed weights of every layer from its present `weight`. A no-op off CPU."""
    for layer in model.modules():
        if hasattr(layer, "cpu_linear"):
            layer_utils.dispatch_cpu_unquantized_gemm(layer, remove_weight=False)
        elif isinstance(layer, RoutedExperts):
            present.pack_experts_again(layer)
