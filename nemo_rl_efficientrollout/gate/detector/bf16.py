"""BF16: the policy's own precision, on any device."""

from collections.abc import Callable

import torch
from torch.nn.functional import linear

from .kernel import Gemm, random_matrix

PACKED_FOR_ROWS = 32
"""Rows that oneDNN is told to expect when it packs a weight; vLLM's CPU backend says the same."""


class Bf16:
    """torch's matmul; on CPUs that multiply BF16, oneDNN's on packed weights, as engines run it."""

    name = "bf16 matmul"
    precision = "bf16"

    def available(self, device: torch.device) -> str | None:
        return None

    def prepare(self, out_features: int, in_features: int, device: torch.device) -> Gemm:
        weight = random_matrix(out_features, in_features, device)
        if device.type == "cpu" and torch.backends.mkldnn.is_available() and _multiplies_bf16():
            return _packed(weight)

        def gemm(rows: int) -> Callable[[], object]:
            x = random_matrix(rows, in_features, device)
            return lambda: linear(x, weight)

        return gemm


def _multiplies_bf16() -> bool:
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _packed(weight: torch.Tensor) -> Gemm:
    """oneDNN's GEMM on a weight in its own layout: up to 2.5 times as fast at few rows as on a plain one."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR_ROWS)
    in_features, device = weight.shape[1], weight.device
    multiply = torch.ops.mkldnn._linear_pointwise

    def gemm(rows: int) -> Callable[[], object]:
        x = random_matrix(rows, in_features, device)
        return lambda: multiply(x, packed, None, "none", [], "")

    return gemm
