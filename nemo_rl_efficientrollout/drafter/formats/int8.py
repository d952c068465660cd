"""int8: symmetric weights with one scale per output channel; activations are quantized per token by the kernel."""

from typing import NamedTuple

import torch

BYTES_PER_WEIGHT = 1.0
"""Scales add 4 bytes per output channel of K weights: 0.1 % at K = 4096."""
LEVELS = 127


class Int8Weight(NamedTuple):
    """A quantized weight matrix: weight ≈ scale * data."""

    data: torch.Tensor
    """int8 [N, K], values in -127…127."""
    scale: torch.Tensor
    """float32 [N, 1]."""


def quantize(weight: torch.Tensor) -> Int8Weight:
    """Round to nearest (ties to even) after dividing each output channel by max|w| / 127.

    Args:
        weight: [N, K], any floating dtype and device.

    Error: |weight - dequantize| ≤ scale / 2 element by element, up to float32 rounding.
    A channel of zeros gets scale 1 and stays zero.
    """
    values = weight.float()
    scale = values.abs().amax(dim=1, keepdim=True) / LEVELS
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    data = (values / scale).round().clamp(-LEVELS, LEVELS).to(torch.int8)
    return Int8Weight(data, scale)


def dequantize(quantized: Int8Weight) -> torch.Tensor:
    """float32 [N, K]: the weights that the drafter computes with."""
    return quantized.data.float() * quantized.scale
