"""Linear layers of the drafter, computed by vLLM's own kernels: one file per kind of kernel."""

from torch import nn

from ...config import DrafterSettings
from ...drafter.formats import format_named
from .draft_linear import DraftLinear
from .experts import EXPERT_WEIGHTS, DraftExperts, new_experts
from .fp8 import Fp8BlockLinear, Fp8Linear
from .int4 import Int4Linear
from .int8 import Int8Linear
from .simulated import SimulatedLinear

_KERNELS: dict[str, type[DraftLinear]] = {
    "int4": Int4Linear,
    "int4_symmetric": Int4Linear,
    "int8": Int8Linear,
    "fp8": Fp8Linear,
    "fp8_block": Fp8BlockLinear,
}

__all__ = ["EXPERT_WEIGHTS", "DraftExperts", "DraftLinear", "new_experts", "new_linear"]


def new_linear(layer: nn.Module, settings: DrafterSettings) -> DraftLinear:
    """The method for the twin's linear `layer` in the drafter's format; it holds no weights yet."""
    kernel = SimulatedLinear if settings.simulate else _KERNELS[settings.format]
    return kernel(format_named(settings.format), layer)
