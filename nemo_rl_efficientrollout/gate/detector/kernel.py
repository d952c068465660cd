"""What the detector asks of a source of GEMM kernels."""

from collections.abc import Callable
from typing import Protocol

import torch

FP8_CAPABILITY = (8, 9)
"""Compute capability from which on tensor cores multiply FP8: Ada, Hopper and later."""
FP8_SIDE = 16
"""FP8 kernels of cuBLASLt want both sides of a weight matrix in multiples of this."""
BLOCK_ROWS = 64

Gemm = Callable[[int], Callable[[], object]]
"""One weight matrix, ready: `gemm(rows)` makes activations [rows, K] and returns what multiplies them once."""


class GemmKernel(Protocol):
    """y[M, N] = x[M, K] · w[N, K]ᵀ with BF16 x and y, and w in `precision`."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def precision(self) -> str:
        """Number format of the weights: `bf16` or `fp8`."""
        ...

    def available(self, device: torch.device) -> str | None:
        """None if it runs on `device`, else one line that says why not."""
        ...

    def prepare(self, out_features: int, in_features: int, device: torch.device) -> Gemm:
        """Quantize and pack a random weight [N, K]: whatever an engine does once, when it loads a model.

        What an engine does at every step, quantizing activations above all, belongs into the returned closure.
        """
        ...


def lacks_fp8(device: torch.device) -> str | None:
    """Why no FP8 kernel can run on `device`, or None."""
    if device.type != "cuda":
        return "no GPU"
    if torch.version.hip is not None:
        return "FP8 on ROCm is not supported"
    capability = torch.cuda.get_device_capability(device)
    if capability < FP8_CAPABILITY:
        needed = ".".join(map(str, FP8_CAPABILITY))
        return f"compute capability {capability[0]}.{capability[1]} has no FP8, which starts at {needed}"
    return None


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `value`."""
    return -(-value // multiple) * multiple


def random_matrix(rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """BF16 [rows, columns]: not zeros, which GPUs multiply faster; one block repeated, as a CPU draws slowly."""
    block = torch.randn(min(rows, BLOCK_ROWS), columns, dtype=torch.bfloat16, device=device) * columns**-0.5
    return block.repeat(-(-rows // BLOCK_ROWS), 1)[:rows]
