"""What one forward pass reads and computes on one GPU, and how much memory is left beside it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..drafter.shapes import Linear, ModelShape
from ..drafter.size import BF16_BYTES, LM_HEAD
from ..gate.terms import KNOTS, Vector

if TYPE_CHECKING:  # it imports torch
    from ..drafter.formats import Format

_SHARPNESS = 2.0
"""As in `gate.prior`: GEMMs near the ridge pay for memory and compute both."""


@dataclass(frozen=True)
class Pass:
    """A forward pass of all GEMMs, output head included."""

    bytes: float
    """Weights that every pass reads."""
    expert_bytes: float
    """Weights of all experts."""
    flops: float
    """Per row."""
    routed: float
    """Share of the experts that one row is sent to."""

    def read(self, rows: Vector) -> Vector:
        """Bytes of a pass over so many rows, if every expert is as likely as every other."""
        return self.bytes + self.expert_bytes * (1.0 - (1.0 - self.routed) ** rows)

    def seconds(self, bytes_per_s: float, flops_per_s: float) -> list[tuple[float, float]]:
        """(rows, seconds) where the cost model's curve may bend: what a probe of this GPU would find."""
        rows = np.array(KNOTS, dtype=float)
        memory, compute = self.read(rows) / bytes_per_s, rows * self.flops / flops_per_s
        times = (memory**_SHARPNESS + compute**_SHARPNESS) ** (1.0 / _SHARPNESS)
        return list(zip(rows.tolist(), np.maximum.accumulate(times).tolist(), strict=True))


def forward(shape: ModelShape, routed: float, form: "Format | None" = None) -> Pass:
    """Of the policy in BF16, or of its drafter; a layer that the format does not take stays in BF16."""
    always = experts = flops = 0.0
    for linear in shape.linears:
        size = linear.count * _bytes(linear, form)
        share = routed if linear.part == "experts" else 1.0
        flops += 2.0 * share * linear.count * linear.weights
        if linear.part == "experts":
            experts += size
        else:
            always += size
    return Pass(always, experts, flops, routed)


def byte_ratio(shape: ModelShape, form: "Format | None") -> float:
    """Bytes of the drafter's linear layers over those of the policy, the output head left out."""
    linears = [linear for linear in shape.linears if linear.part != LM_HEAD]
    total = sum(linear.count * linear.weights for linear in linears)
    return min(sum(linear.count * _bytes(linear, form) for linear in linears) / (BF16_BYTES * total), 1.0)


def _bytes(linear: Linear, form: "Format | None") -> float:
    if form is None or not linear.quantized or any(form.refusal(rows, linear.columns) for rows in linear.rows):
        return BF16_BYTES * linear.weights
    return form.bytes(sum(linear.rows), linear.columns)
