"""Which kernels are measured, and why not others."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .bf16 import Bf16
from .kernel import GemmKernel
from .scaled_mm_fp8 import ScaledMmFp8
from .te_fp8 import TransformerEngineFp8

KERNELS: tuple[GemmKernel, ...] = (TransformerEngineFp8(), ScaledMmFp8(), Bf16())
"""In order of preference: of each precision, the first that is available is measured."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A source of kernels, and what became of it."""

    kernel: str
    precision: str
    why_not: str | None
    """One line; None if it was measured."""


def choose(kernels: Sequence[GemmKernel], device: torch.device) -> tuple[list[GemmKernel], tuple[Tried, ...]]:
    """The first available kernel of each precision, and a line on every one."""
    chosen: dict[str, GemmKernel] = {}
    tried = []
    for kernel in kernels:
        preferred = chosen.get(kernel.precision)
        why_not = f"{preferred.name} is preferred" if preferred is not None else kernel.available(device)
        if why_not is None:
            chosen[kernel.precision] = kernel
        tried.append(Tried(kernel.name, kernel.precision, why_not))
    return list(chosen.values()), tuple(tried)


def explain(tried: Sequence[Tried]) -> str:
    """The most preferred kernel that is measured, and why none before it: `bf16 matmul: no GPU`."""
    reasons: list[str] = []
    for one in tried:
        if one.why_not is None:
            return f"{one.kernel}: {'; '.join(reasons) or 'first choice'}"
        if one.why_not not in reasons:
            reasons.append(one.why_not)
    return f"none: {'; '.join(reasons)}"
