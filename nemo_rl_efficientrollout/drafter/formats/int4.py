"""int4: weight-only, one scale per group of 128 input channels, with a zero point or symmetric; round to nearest.

Scales have the policy's own type, because the kernels (Marlin, Machete) multiply in it; codes are rounded against the
scale as stored. The published scheme (arXiv 2606.18967 §4.1) is the one with a zero point.
"""

import torch
from torch import Tensor

from .format import Block, Extent, Quantized, ScaledFormat, Scales, join, quotient, split, spread
from .int8 import nonzero

GROUPS = (128, 64, 32)
"""The largest that divides K is used: tensor parallelism leaves odd widths."""
LEVELS = 15
HALF = 8
"""The code of 0 in the symmetric format."""


class Int4(ScaledFormat):
    """codes = round(w / scale) + zero, scale = (max - min) / 15 with 0 between them, zero = round(-min / scale)."""

    name = "int4"
    hardware = "NVIDIA GPUs from compute capability 7.5 (Marlin, Machete on 9.0); CPUs with AVX-512"
    bits = 4
    code = torch.uint8
    scale_bits = 20
    worst_error = 0.5 + LEVELS * 2.0**-8
    """Half a level, and what rounding the scale to BF16 pushes over the edge."""

    def block(self, columns: int) -> Block:
        return Block(1, next((group for group in GROUPS if columns % group == 0), GROUPS[-1]))

    def refusal(self, rows: int, columns: int) -> str | None:
        if columns % GROUPS[-1]:
            return f"{columns} input channels are no multiple of {GROUPS[-1]}, the smallest group"
        if rows % 32:
            return f"{rows} output channels are no multiple of 32"
        return None

    def scales(self, extent: Extent, dtype: torch.dtype) -> Scales:
        scale = nonzero(quotient(extent.high - extent.low, LEVELS).to(dtype))
        return Scales(scale, zero=(-extent.low / scale.float()).round().clamp(0, LEVELS))

    def round_(self, blocks: Tensor, scales: Scales) -> Tensor:
        assert scales.zero is not None
        return blocks.div_(spread(scales.scale)).round_().add_(spread(scales.zero)).clamp_(0, LEVELS)

    def dequantize(self, quantized: Quantized) -> Tensor:
        assert quantized.zero is not None
        codes = split(quantized.data, self.block(quantized.data.shape[1]))
        return join((codes - spread(quantized.zero)) * spread(quantized.scale), *quantized.data.shape)


class Int4Symmetric(Int4):
    """codes = round(w / scale) + 8, scale = max|w| / 7.5: both ends lose half a level, none is wasted."""

    name = "int4_symmetric"
    scale_bits = 16
    worst_error = 0.5 + LEVELS / 2 * 2.0**-8

    def scales(self, extent: Extent, dtype: torch.dtype) -> Scales:
        return Scales(nonzero(quotient(extent.magnitude, LEVELS / 2).to(dtype)))

    def round_(self, blocks: Tensor, scales: Scales) -> Tensor:
        return blocks.div_(spread(scales.scale)).round_().add_(HALF).clamp_(0, LEVELS)

    def dequantize(self, quantized: Quantized) -> Tensor:
        codes = split(quantized.data, self.block(quantized.data.shape[1]))
        return join((codes - HALF) * spread(quantized.scale), *quantized.data.shape)
