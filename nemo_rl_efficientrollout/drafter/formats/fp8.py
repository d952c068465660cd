"""fp8: E4M3 weights, one float32 scale per output channel or per 128 × 128 block.

The arithmetic is Transformer Engine's current scaling without power-of-two rounding (multiply by 448 / max|w|, store
the reciprocal; transformer_engine/common/recipe, https://github.com/NVIDIA/TransformerEngine), so that its quantizer's
result is the same.
"""

import torch
from torch import Tensor

from .format import Block, Extent, Quantized, ScaledFormat, Scales, join, quotient, split, spread

MOST = 448.0
SIDE = 128


class Fp8(ScaledFormat):
    """One scale per output channel; activations are quantized per token by the kernel, or not at all (Marlin)."""

    name = "fp8"
    hardware = "NVIDIA GPUs from compute capability 8.9 (CUTLASS); from 8.0 weight-only (Marlin)"
    bits = 8
    code = torch.float8_e4m3fn
    scale_bits = 32
    worst_error = 16.001
    """Half the distance of codes between 256 and 448; |w| / 16 where codes are normal numbers."""

    def block(self, columns: int) -> Block:
        return Block(1, columns)

    def refusal(self, rows: int, columns: int) -> str | None:
        if rows % 16 or columns % 16:
            return f"{rows} × {columns} are no multiples of 16"
        return None

    def scales(self, extent: Extent, dtype: torch.dtype) -> Scales:
        factor = quotient(MOST, extent.magnitude)
        # Infinite for weights below 1.3e-36, which thus leave part of the codes unused.
        factor = torch.where(factor.isinf(), self.largest_factor(dtype), factor)
        factor = torch.where(extent.magnitude == 0, 1.0, factor)
        return Scales(1.0 / factor, factor=factor)

    def round_(self, blocks: Tensor, scales: Scales) -> Tensor:
        assert scales.factor is not None
        return blocks.mul_(spread(scales.factor)).clamp_(-MOST, MOST)  # rounded by the conversion to E4M3

    def largest_factor(self, dtype: torch.dtype) -> float:
        """What takes the place of 448 / max|w| where that is infinite, for weights of this type."""
        return torch.finfo(torch.float32).max

    def dequantize(self, quantized: Quantized) -> Tensor:
        codes = split(quantized.data, self.block(quantized.data.shape[1]))
        return join(codes * spread(quantized.scale), *quantized.data.shape)


class Fp8Block(Fp8):
    """One scale per block of 128 × 128, as DeepSeek-V3's (https://arxiv.org/abs/2412.19437, §3.3)."""

    name = "fp8_block"
    hardware = "NVIDIA GPUs from compute capability 9.0 (DeepGEMM, CUTLASS); from 8.9 Triton"

    def block(self, columns: int) -> Block:
        return Block(SIDE, SIDE)

    def refusal(self, rows: int, columns: int) -> str | None:
        if rows % SIDE or columns % SIDE:
            return f"{rows} × {columns} are no multiples of {SIDE}"
        return None

    def largest_factor(self, dtype: torch.dtype) -> float:
        return min(torch.finfo(dtype).max, super().largest_factor(dtype))
