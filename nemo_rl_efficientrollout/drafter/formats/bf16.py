"""bf16, the identity: the drafter shares the policy's own weights. For proofs: every draft must be accepted."""

from torch import Tensor

from .format import Block, Extent, Format, Quantized


class Bf16(Format):
    """Codes are the weights, whatever their type; one scale, which is 1."""

    name = "bf16"
    hardware = "any"
    bits = 16
    scale_bits = 0
    worst_error = 0.0

    def block(self, columns: int) -> Block:
        return Block(2**31, 2**31)

    def encode(self, weight: Tensor, extent: Extent) -> Quantized:
        return Quantized(weight, weight.new_ones(1, 1, dtype=extent.high.dtype))

    def dequantize(self, quantized: Quantized) -> Tensor:
        return quantized.data.float()
