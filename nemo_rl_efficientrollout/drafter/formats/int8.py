"""int8: symmetric weights with one scale per output channel; activations are quantized per token by the kernel."""

import torch
from torch import Tensor

from .format import Block, Extent, Quantized, ScaledFormat, Scales, quotient, spread

LEVELS = 127


class Int8(ScaledFormat):
    """Round to nearest (ties to even) after dividing each output channel by max|w| / 127."""

    name = "int8"
    hardware = "NVIDIA GPUs from compute capability 7.5 to 9.0 (CUTLASS); CPUs (oneDNN)"
    bits = 8
    code = torch.int8
    scale_bits = 32
    worst_error = 0.5001
    """Half a level, and float32 rounding."""

    def block(self, columns: int) -> Block:
        return Block(1, columns)

    def scales(self, extent: Extent, dtype: torch.dtype) -> Scales:
        return Scales(nonzero(quotient(extent.magnitude, LEVELS)))

    def round_(self, blocks: Tensor, scales: Scales) -> Tensor:
        return blocks.div_(spread(scales.scale)).round_().clamp_(-LEVELS, LEVELS)

    def dequantize(self, quantized: Quantized) -> Tensor:
        return quantized.data.float() * quantized.scale


def nonzero(scale: Tensor) -> Tensor:
    """A block of zeros gets scale 1 and stays zero."""
    return torch.where(scale == 0, torch.ones_like(scale), scale)
