"""W8A8 in E4M3: weights per channel or per 128 × 128 block, activations per token or per 128 channels of a token."""

from typing import Any

import torch
from torch import nn
from vllm.model_executor.kernels.linear import init_fp8_linear_kernel
from vllm.model_executor.layers.quantization.utils.quant_utils import (
    GroupShape,
    create_fp8_quant_key,
    kFp8Dynamic128Sym,
    kFp8DynamicTokenSym,
    kFp8StaticChannelSym,
)

from ...drafter.formats import Quantized
from .draft_linear import DraftLinear, scratch


class Fp8Linear(DraftLinear):
    """vLLM's FP8 kernel of this platform: CUTLASS, FlashInfer, or Marlin, which leaves activations as they are."""

    def new_kernel(self, shape: tuple[int, int], block: int, dtype: torch.dtype) -> Any:
        return init_fp8_linear_kernel(
            activation_quant_key=kFp8DynamicTokenSym,
            weight_quant_key=kFp8StaticChannelSym,
            weight_shape=shape,
            input_dtype=dtype,
            out_dtype=dtype,
            module_name="EfficientRollout drafter",
        )

    def lay_out(self, quantized: Quantized, dtype: torch.dtype) -> nn.Module:
        layer = scratch(weight=quantized.data.t(), weight_scale=quantized.scale)
        return _described(layer, quantized, dtype)


class Fp8BlockLinear(DraftLinear):
    """vLLM's block-scaled FP8 kernel of this platform: DeepGEMM, CUTLASS or Triton."""

    def new_kernel(self, shape: tuple[int, int], block: int, dtype: torch.dtype) -> Any:
        return init_fp8_linear_kernel(
            activation_quant_key=kFp8Dynamic128Sym,
            weight_quant_key=create_fp8_quant_key(static=True, group_shape=GroupShape(block, block)),
            weight_shape=shape,
            input_dtype=dtype,
            out_dtype=dtype,
            module_name="EfficientRollout drafter",
        )

    def lay_out(self, quantized: Quantized, dtype: torch.dtype) -> nn.Module:
        layer: Any = scratch(weight=quantized.data, weight_scale_inv=quantized.scale)
        side = self.format.block(quantized.data.shape[1])
        layer.weight_block_size = [side.rows, side.columns]
        return _described(layer, quantized, dtype)


def _described(layer: Any, quantized: Quantized, dtype: torch.dtype) -> nn.Module:
    """What vLLM's FP8 kernels ask a layer besides its weights."""
    rows, columns = quantized.data.shape
    layer.logical_widths = [rows]
    layer.input_size_per_partition, layer.output_size_per_partition = columns, rows
    layer.orig_dtype = dtype
    layer.input_scale = None
    if not hasattr(layer, "weight_block_size"):
        layer.weight_block_size = None
    return layer
