"""What is believed about a step's terms before (much) was measured: a roofline with honest error bars.

Everything is relative to T_T(1 request, short context), the first thing that an engine can be asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .terms import KNOTS, Terms, Vector

_SHARPNESS = 2.0
"""p of (1 + (rows/ridge)^p)^(1/p): GEMMs near the ridge pay for memory and compute both."""
_LAUNCH, _REQUEST = 0.1, 0.005
_CONTEXT, _DRAFT_CONTEXT = 0.05, 0.03


@dataclass(frozen=True, slots=True)
class Prior:
    """A guess at the machine and the model; `spread` scales every standard deviation."""

    plain_seconds: float
    """T_T of one request."""
    ridge_rows: float = 128.0
    """Rows at which compute takes as long as reading the weights: about FLOP/s over bytes/s times bytes per weight / 2.
    145 for BF16 on an A100, 250 on an H100, 5 to 20 on CPUs."""
    draft_ratio: float = 0.5
    """Weight bytes that the drafter reads over those of the target, kernel efficiency included."""
    kv_per_ktoken: float = 0.002
    """Reading the KV cache of a thousand tokens, in units of reading the weights once."""
    attention_per_ktoken: float = 1e-4
    """Attention FLOPs of one query against a thousand tokens, in the same unit."""
    unsure_ridge: float = 2.0
    """Factor by which the ridge may well lie lower."""
    all_reduce_s: float = 0.0
    all_reduce_s_per_row: float = 0.0
    """Tensor parallelism: seconds of all all-reduces of a step for no rows at all, and for each row more. The published
    model has one constant measured at 32 requests; a verification's messages are γ+1 times as long."""
    curve: tuple[tuple[float, float], ...] = ()
    """Measured GEMM time over rows (rows, any unit), where a detector ran; replaces the roofline's shape."""
    spread: float = 1.0

    def scaled(self, terms: Terms, batch: int, context: float, seconds: float) -> "Prior":
        """The same shape, such that a plain step at (B, S) is expected to take `seconds`."""
        expected = float(terms.vector("plain", batch, context) @ self.mean(terms))
        return replace(self, plain_seconds=self.plain_seconds * seconds / expected)

    def mean(self, terms: Terms) -> Vector:
        """Expected θ in seconds."""
        m, t, d = np.zeros(terms.size), self.plain_seconds, self.plain_seconds * self.draft_ratio
        each = [0.003, self.kv_per_ktoken, 0.0]
        messages = np.array([self.all_reduce_s, *self.all_reduce_s_per_row * np.diff(KNOTS)])
        m[terms.block("target")] = messages + t * np.array([0.95, *np.diff(self._rows(1.0))])
        m[terms.block("plain")] = t * np.array([0.0, *each])
        m[terms.block("verify")] = t * np.array([0.0, *each, self.attention_per_ktoken])
        for drafter in terms.drafters:
            rows = messages + d * np.array([0.95, *np.diff(self._rows(self.draft_ratio))])
            m[terms.block(f"draft.{drafter}")] = [*rows, *(d * np.array(each))]
        return m

    def deviation(self, terms: Terms) -> Vector:
        """Standard deviation of each θ, independent of the others."""
        s, t, d = np.zeros(terms.size), self.plain_seconds, self.plain_seconds * self.draft_ratio
        m = self.mean(terms)
        each = [_REQUEST, 1.5 * self.kv_per_ktoken]
        s[terms.block("plain")] = t * np.array([_LAUNCH, *each, _CONTEXT / 5])
        s[terms.block("verify")] = t * np.array([_LAUNCH, *each, _CONTEXT, 3 * self.attention_per_ktoken])
        for name, scale, tail in [("target", t, 0), *((f"draft.{x}", d, 3) for x in terms.drafters)]:
            block = terms.block(name)
            inside = slice(block.start, block.stop - tail)
            s[inside] = np.hypot(0.5 * m[inside], 0.03 * scale)
            if tail:
                s[block.stop - tail : block.stop] = d * np.array([*each, _DRAFT_CONTEXT])
        return self.spread * s

    def covariance(self, terms: Terms) -> Vector:
        """Of θ, with what all terms share: an unsure ridge and an unsure drafter move many of them together."""
        m = self.mean(terms)
        ridge = replace(self, ridge_rows=self.ridge_rows / self.unsure_ridge).mean(terms) - m
        draft = replace(self, draft_ratio=1.3 * self.draft_ratio).mean(terms) - m
        return np.diag(self.deviation(terms) ** 2) + self.spread**2 * (np.outer(ridge, ridge) + np.outer(draft, draft))

    def _rows(self, bytes_ratio: float) -> Vector:
        """GEMM time at every knot over that at one row, for weights of `bytes_ratio` as many bytes."""
        rows = np.array(KNOTS, dtype=float)
        if self.curve:
            at, seconds = np.array(self.curve).T
            slope = max((seconds[-1] - seconds[-2]) / (at[-1] - at[-2]), 0.0) if len(at) > 1 else 0.0
            beyond = np.maximum(rows - at[-1], 0.0) * slope
            shape = np.maximum.accumulate(np.interp(rows, at, seconds) + beyond) / seconds[0]
            return 1.0 + (shape - 1.0) / bytes_ratio  # compute takes as long, the weights are read sooner
        return (1.0 + (rows / (self.ridge_rows * bytes_ratio)) ** _SHARPNESS) ** (1.0 / _SHARPNESS)


def hypotheses(prior: Prior, ridges: Sequence[float], draft_ratios: Sequence[float]) -> list[Prior]:
    """The prior under every combination of what timings must decide."""
    return [replace(prior, ridge_rows=ridge, draft_ratio=ratio) for ridge in ridges for ratio in draft_ratios]
