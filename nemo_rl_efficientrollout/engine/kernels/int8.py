"""W8A8: int8 weights per channel, activations per token."""

from typing import Any

import torch
from torch import nn
from vllm.model_executor.kernels.linear import init_int8_linear_kernel

from ...drafter.formats import Format, Quantized
from .draft_linear import DraftLinear, scratch


class Int8Linear(DraftLinear):
    """vLLM's int8 kernel of this platform: CUTLASS, Triton or oneDNN."""

    def __init__(self, form: Format, layer: nn.Module) -> None:
        super().__init__(form, layer)
        self._newest: nn.Module | None = None

    def new_kernel(self, shape: tuple[int, int], block: int, dtype: torch.dtype) -> Any:
        return init_int8_linear_kernel(
            is_channelwise=True,
            is_static_input_scheme=False,
            input_symmetric=True,
            module_name="EfficientRollout drafter",
        )

    def lay_out(self, quantized: Quantized, dtype: torch.dtype) -> nn.Module:
        layer: Any = scratch(weight=quantized.data, weight_scale=quantized.scale)
        layer.logical_widths = [quantized.data.shape[0]]
        layer.input_scale = layer.input_zero_point = layer.azp_adj = None
        self._newest = layer  # oneDNN reads the scales from where they were packed
        return layer

    def overwrite(self, kernel: Any, packed: nn.Module) -> None:
        super().overwrite(kernel, packed)
        old, new = (getattr(k, "dnnl_handler", None) for k in (self._kernel, kernel))
        if old is not None and new is not None:
            # oneDNN owns the packed weight behind a pointer: exchange pointers, the old one is freed with `kernel`.
            pointer = old.handler_tensor.clone()
            old.handler_tensor.copy_(new.handler_tensor)
            new.handler_tensor.copy_(pointer)
