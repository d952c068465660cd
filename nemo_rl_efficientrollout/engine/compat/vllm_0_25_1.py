"""What is particular to vLLM 0.25.1. Same names as in every other `vllm_*.py`; `present` chooses."""

from typing import Any

from torch import nn
from vllm.model_executor.kernels.linear import MPLinearLayerConfig
from vllm.model_executor.layers.fused_moe.oracle.unquantized import UnquantizedMoeBackend
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
from vllm.platforms import current_platform

from ...patching import wrap
from .cpu_experts import EXPERT_WEIGHTS
from .ours import builds_ours


def mixed_precision_config(**settings: Any) -> MPLinearLayerConfig:
    """Of a linear layer whose four-bit weights are in the order of the checkpoint."""
    return MPLinearLayerConfig(**settings, has_g_idx=False)  # pyright: ignore[reportCallIssue]


def new_online_experts(method: Any, layer: RoutedExperts) -> Any:
    """`method`, a class for experts that are quantized while they are loaded, for `layer`."""
    return method(layer=layer)


def forget_copies(metadata: Any) -> None:
    """Sequence lengths in `metadata` were changed in place: it must not answer from copies that it made before."""
    metadata._seq_lens_cpu = metadata._num_computed_tokens_cpu = None


def share_routing(layer: RoutedExperts, source: RoutedExperts) -> None:
    """Experts of the twin route as the policy's: on CPU they do it themselves and do not ask the router."""
    for name in ("custom_routing_function", "e_score_correction_bias"):
        vars(layer)[name] = getattr(source, name)  # not as a parameter: it is the policy's


def keep_expert_originals() -> None:
    """Let experts of engines that this package drives be packed beside their kernel, on CPU only."""
    if current_platform.is_cpu():
        wrap(UnquantizedFusedMoEMethod, "process_weights_after_loading", _keeping_originals)


def pack_experts_again(layer: RoutedExperts) -> None:
    """Rebuild the packed weights of `layer` from its present ones. A no-op where none were kept."""
    if hasattr(layer.quant_method, "packed"):
        layer.quant_method.process_weights_after_loading(layer)


def _keeping_originals(original: Any) -> Any:
    def process_weights_after_loading(method: Any, layer: Any) -> None:
        on_cpu = method.unquantized_backend == UnquantizedMoeBackend.CPU
        if not on_cpu or not (hasattr(method, "packed") or builds_ours()):
            original(method, layer)
            return
        present = _stand_in(layer)
        original(method, present)
        kernel = method.cpu_fused_moe
        if hasattr(method, "packed"):  # compiled graphs hold its addresses
            for name in EXPERT_WEIGHTS:
                getattr(method.packed, name).data.copy_(getattr(present, name))
            if not method.packed.w13_weight.numel():  # packed away behind these handles, on ARM
                method.packed.gate_up_linear, method.packed.down_linear = present.gate_up_linear, present.down_linear
        else:
            method.packed = present
            method.kernel = kernel
        method.cpu_fused_moe = lambda layer, *args: method.kernel(method.packed, *args)

    return process_weights_after_loading


def _stand_in(layer: Any) -> nn.Module:
    """What vLLM packs in place of `layer`: copies of its weights. Kernels read nothing else from it but biases."""
    packed = nn.Module()
    for name in EXPERT_WEIGHTS:
        copy = getattr(layer, name).detach().clone()
        packed.register_parameter(name, nn.Parameter(copy, requires_grad=False))
    for name in {"w13_bias", "w2_bias"} & layer._parameters.keys():
        packed.register_parameter(name, layer._parameters[name])
    return packed
