"""The experts of a mixture: the same formats, one matrix of one expert at a time, computed by vLLM's fused kernels."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.fused_moe.oracle.fp8 import convert_to_fp8_moe_kernel_format
from vllm.model_executor.layers.fused_moe.oracle.unquantized import UnquantizedMoeBackend
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
from vllm.model_executor.layers.quantization.online.fp8 import Fp8PerBlockOnlineMoEMethod, Fp8PtpcOnlineMoEMethod

from ...config import DrafterSettings
from ...drafter.formats import Format, Quantized, format_named
from ...errors import UnsupportedError
from ..compat.cpu_experts import EXPERT_WEIGHTS
from ..compat.present import present

PLAIN_BACKENDS = (UnquantizedMoeBackend.TRITON, UnquantizedMoeBackend.BATCHED_TRITON, UnquantizedMoeBackend.CPU)
"""Backends that leave the policy's expert weights as they were loaded, so that they can be quantized from."""


class DraftExperts(ABC):
    """The weights of one layer's experts, replaced in place. `layer` is the twin's `RoutedExperts`."""

    def __init__(self, layer: Any, form: Format) -> None:
        self.layer = layer
        self.format = form
        self._filled = False

    def refill(self, source: Any) -> Tensor:
        """Quantize the policy's `RoutedExperts`; returns whether all weights were finite, a scalar on the device."""
        return self.fill(
            [self.format.quantize(weight) for name in EXPERT_WEIGHTS for weight in getattr(source, name)], source
        )

    @abstractmethod
    def fill(self, matrices: list[Quantized], source: Any) -> Tensor:
        """Put in w13 of every expert and then w2 of every expert, quantized already."""

    def tensors(self) -> list[Tensor]:
        """What the kernel reads."""
        return [*self.layer._parameters.values()]

    def rehouse(self) -> None:
        """Move the weights to memory that is allocated now."""
        for parameter in self.tensors():
            parameter.data = parameter.data.clone()


class SimulatedExperts(DraftExperts):
    """Dequantized weights in vLLM's kernel for unquantized ones."""

    def fill(self, matrices: list[Quantized], source: Any) -> Tensor:
        half = len(matrices) // 2
        for name, own in zip(EXPERT_WEIGHTS, (matrices[:half], matrices[half:]), strict=True):
            if not self._filled:
                empty = torch.empty_like(getattr(source, name))
                self.layer.register_parameter(name, nn.Parameter(empty, requires_grad=False))
            for weight, quantized in zip(getattr(self.layer, name), own, strict=True):
                weight.copy_(self.format.dequantize(quantized))
        if self._filled:
            present.pack_experts_again(self.layer)
        else:
            self.layer.quant_method.process_weights_after_loading(self.layer)
            self._filled = True
        return torch.stack([torch.isfinite(quantized.scale).all() for quantized in matrices]).all()


class Fp8Experts(DraftExperts):
    """E4M3 weights per channel or per block, in vLLM's FP8 kernels for experts."""

    def __init__(self, layer: Any, form: Format) -> None:
        super().__init__(layer, form)
        method = Fp8PtpcOnlineMoEMethod if form.name == "fp8" else Fp8PerBlockOnlineMoEMethod
        try:
            self._method: Any = present.new_online_experts(method, layer)
        except (ValueError, NotImplementedError) as error:
            raise UnsupportedError(f"experts in format '{form.name}' have no kernel here: {error}") from error
        layer.quant_method = self._method
        layer.w13_input_scale = layer.w2_input_scale = None
        layer.weight_block_size = self._method.weight_block_size

    def fill(self, matrices: list[Quantized], source: Any) -> Tensor:
        half = len(matrices) // 2
        codes = [torch.stack([q.data for q in own]) for own in (matrices[:half], matrices[half:])]
        scales = [torch.stack([q.scale for q in own]) for own in (matrices[:half], matrices[half:])]
        finite = torch.isfinite(scales[0]).all() & torch.isfinite(scales[1]).all()
        if self._filled:
            self._overwrite(*codes, *scales)
        else:
            self._method._setup_kernel(self.layer, *codes, *scales, None, None)
            self._filled = True
        return finite

    def _overwrite(self, w13: Tensor, w2: Tensor, w13_scale: Tensor, w2_scale: Tensor) -> None:
        new = convert_to_fp8_moe_kernel_format(
            fp8_backend=self._method.fp8_backend,
            layer=self.layer,
            w13=w13,
            w2=w2,
            w13_scale=w13_scale,
            w2_scale=w2_scale,
            w13_input_scale=None,
            w2_input_scale=None,
        )
        scale = self._method.weight_scale_name
        for name, tensor in zip((*EXPERT_WEIGHTS, f"w13_{scale}", f"w2_{scale}"), new, strict=True):
            getattr(self.layer, name).copy_(tensor)


def new_experts(path: str, layer: Any, source: Any, settings: DrafterSettings) -> DraftExperts:
    """The drafter's copy of the policy's experts `source`, empty.

    Raises:
        UnsupportedError: naming the layer and what of it cannot be quantized.
    """
    method, form = source.quant_method, format_named(settings.format)
    if not isinstance(method, UnquantizedFusedMoEMethod):
        raise UnsupportedError(f"experts '{path}' of the policy are quantized already ({type(method).__name__})")
    if method.unquantized_backend not in PLAIN_BACKENDS:
        raise UnsupportedError(
            f"experts '{path}' are laid out for vLLM's backend {method.unquantized_backend.value}: set moe_backend to"
            " 'triton'"
        )
    if source.moe_config.has_bias or source.moe_config.moe_parallel_config.enable_eplb:
        raise UnsupportedError(f"experts '{path}' have biases or are moved between ranks, which is not supported")
    for name in EXPERT_WEIGHTS:
        refusal = form.refusal(*getattr(source, name).shape[1:])
        if refusal is not None:
            raise UnsupportedError(f"experts '{path}' cannot be quantized: {refusal} for {form.name}")
    if settings.simulate:
        return SimulatedExperts(layer, form)
    if form.name not in ("fp8", "fp8_block"):
        raise UnsupportedError(f"experts have no kernel in format '{form.name}': use 'fp8' or 'fp8_block'")
    return Fp8Experts(layer, form)
