"""Seconds of a step from nine numbers: the published cost model of self-speculation (arXiv 2606.18967 §4.2).

    C   = B·(C_dense + S·C_attn) / F_eff
    T_T = max((W_t + κ·B·S) / BW, C)            + c_T·B
    T_D = max((η·W_d + κ·B·S) / BW, C)          + c_D·B
    T_V = max((W_t + κ·B·S) / BW, (γ+1)·C)      + c_V·B

As the authors' sd_toggle at 0ff0bc5 computes it. The constants describe forward passes: lm_head, sampling and the host
are in none of them. Times in seconds, c_* in microseconds per request.
"""

from dataclasses import dataclass

import numpy as np

from ..gate.model_constants import ModelConstants
from ..gate.terms import Vector

A100_FLOPS = 233.514e12
"""F_eff: measured by the authors with GEMMs, not fitted to a sweep."""


@dataclass(frozen=True)
class Static:
    """What the published procedure derives from the architecture, embedding table and lm_head counted as read."""

    target_bytes: float
    drafter_bytes: float
    kv_bytes: float
    """Per token of context."""
    dense_flops: float
    """Per row."""
    attention_flops: float
    """Per row and token of context."""


def static(c: ModelConstants) -> Static:
    """The constants of `sd_toggle/constants.py`: golden values are published per model."""
    attention = 2 * c.hidden * c.head_dim * (c.heads + c.kv_heads)
    linear = c.layers * (attention + 3 * c.hidden * c.intermediate)
    norms = (2 * c.layers + 1) * c.hidden
    table = c.vocabulary * c.hidden
    return Static(
        target_bytes=2 * (linear + 2 * table + norms) / c.tensor_parallel,
        drafter_bytes=(c.quant_ratio * 2 * linear + 2 * (2 * table + norms)) / c.tensor_parallel,
        kv_bytes=c.layers * 2 * max(c.kv_heads // c.tensor_parallel, 1) * c.head_dim * 2,
        dense_flops=(2 * linear + 2 * table) / c.tensor_parallel,
        attention_flops=4 * c.layers * c.heads * c.head_dim / c.tensor_parallel,
    )


@dataclass(frozen=True)
class Roofline:
    """The constants that are fitted, and what follows from them. Every method takes and returns equal shapes."""

    static: Static
    bandwidth: float
    kv_bytes: float
    """κ, fitted."""
    eta: float
    c_target: float
    c_draft: float
    c_verify: float
    flops: float = A100_FLOPS

    def plain(self, batch: Vector, context: Vector) -> Vector:
        """T_T."""
        return self._step(batch, context, self.static.target_bytes, 1.0, self.c_target)

    def draft(self, batch: Vector, context: Vector, length: Vector | float = 1.0) -> Vector:
        """T_D, which here is the same for every γ."""
        return self._step(batch, context, self.eta * self.static.drafter_bytes, 1.0, self.c_draft)

    def verify(self, batch: Vector, context: Vector, length: Vector) -> Vector:
        """T_V(γ)."""
        return self._step(batch, context, self.static.target_bytes, length + 1.0, self.c_verify)

    def prefill(self, lengths: Vector) -> float:
        """One pass over prompts of `lengths` tokens: each token is a row that attends to half its prompt."""
        compute = np.sum(lengths * (self.static.dense_flops + 0.5 * lengths * self.static.attention_flops))
        return float(max(self.static.target_bytes / self.bandwidth, compute / self.flops))

    def cycle(self, batch: int, context: float, length: int) -> float:
        """Seconds of a whole cycle; of plain decoding for γ = 0."""
        b, s = np.array(float(batch)), np.array(context)
        if length == 0:
            return float(self.plain(b, s))
        return float(length * self.draft(b, s) + self.verify(b, s, np.array(float(length))))

    def _step(self, batch: Vector, context: Vector, weights: float, rows: Vector | float, overhead: float) -> Vector:
        memory = (weights + self.kv_bytes * batch * context) / self.bandwidth
        compute = batch * (self.static.dense_flops + context * self.static.attention_flops) / self.flops
        return np.maximum(memory, rows * compute) + 1e-6 * overhead * batch
