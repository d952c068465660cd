"""Any format on any machine: the weights that quantizing leaves, computed with in the policy's own precision.

For measuring acceptance where the format has no kernel. As slow and as large as the policy.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ...drafter.formats import Quantized
from .draft_linear import DraftLinear, scratch


class SimulatedLinear(DraftLinear):
    """Dequantized weights; activations are not quantized."""

    def quantize(self, weight: Tensor) -> Quantized:
        return self.format.quantize(weight)

    def pack(self, quantized: Quantized) -> Quantized:
        return quantized

    def new_kernel(self, shape: tuple[int, int], block: int, dtype: torch.dtype) -> Any:
        return self

    def lay_out(self, quantized: Quantized, dtype: torch.dtype) -> nn.Module:
        return scratch(weight=self.format.dequantize(quantized).to(dtype))

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        """Nothing to lay out."""

    def apply_weights(self, layer: Any, x: Tensor, bias: Tensor | None) -> Tensor:
        """As a kernel of vLLM's."""
        return linear(x, layer.weight, bias)
