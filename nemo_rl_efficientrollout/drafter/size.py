"""Memory of a drafter beside its policy, by part of the model, without loading either."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .shapes import Linear, ModelShape

if TYPE_CHECKING:  # it imports torch
    from .formats import Format

BF16_BYTES = 2
LM_HEAD, EMBEDDING, NORMS = "lm_head", "embedding", "norms"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A layer that stays in BF16, shared with the policy, because the format has no kernel for its shape."""

    layer: str
    reason: str


@dataclass(frozen=True)
class DrafterSize:
    """Bytes on one GPU that a drafter needs beyond the policy's; what it shares with the policy costs nothing."""

    parts: dict[str, int]
    """By part of the model; 0 where it is shared."""
    refusals: list[Refusal] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def without_lm_head(self) -> int:
        """With `drafter.lm_head` false."""
        return self.total - self.parts[LM_HEAD]


def policy_size(shape: ModelShape) -> dict[str, int]:
    """Bytes on one GPU of the policy in BF16, by part of the model; 0 for an output head tied to the embedding."""
    parts: dict[str, int] = defaultdict(int)
    for linear in shape.linears:
        own = not (shape.tied and linear.part == LM_HEAD)
        parts[linear.part] += own * linear.count * (BF16_BYTES * linear.weights + _bias(linear))
    return {**parts, EMBEDDING: BF16_BYTES * shape.embedding, NORMS: BF16_BYTES * shape.norms}


def drafter_size(shape: ModelShape, form: "Format") -> DrafterSize:
    """Bytes of a drafter of this format, its copies of biases included, a kernel's padding not."""
    parts: dict[str, int] = defaultdict(int)
    refusals = []
    for linear in shape.linears:
        parts[linear.part] += 0
        if not linear.quantized or form.name == "bf16":
            continue
        reason = next(filter(None, (form.refusal(rows, linear.columns) for rows in linear.rows)), None)
        if reason is not None:
            refusals.append(Refusal(linear.name, reason))
            continue
        parts[linear.part] += linear.count * (form.bytes(sum(linear.rows), linear.columns) + _bias(linear))
    return DrafterSize({**parts, EMBEDDING: 0, NORMS: 0}, refusals)


def _bias(linear: Linear) -> int:
    return BF16_BYTES * sum(linear.rows) * linear.bias
