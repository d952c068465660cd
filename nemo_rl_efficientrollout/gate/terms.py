"""The terms that the time of a step is a sum of.

    seconds = Σ_k θ_k · x_k(B, S, γ),   every θ_k ≥ 0

| block   | terms                                                                                      |
|---------|--------------------------------------------------------------------------------------------|
| target  | weights: reading them once; rows_a_b: what GEMMs over b rows cost beyond a rows             |
| plain   | launch, per request, per thousand KV tokens read (B·S), per thousand tokens of context (S)  |
| verify  | the same of the verification's kernels, and attention of γ+1 queries (B·S·(γ+1))            |
| draft.X | weights, rows and the terms of one step of drafter X                                       |

T_T is target + plain with B rows, T_V(γ) target + verify with B·(γ+1) rows, T_D one draft block with B rows.
The published model (arXiv 2606.18967 §4.2) takes the larger of memory and compute; GEMM tiles make the real curve a
staircase between the two, so a monotone piecewise-linear curve over rows stands for both here, and an all-reduce
(latency, plus bytes proportional to rows) is part of the same curve. Linear in θ: a batch fit is a non-negative least
squares, a correction while the engine runs a Kalman filter, and a whole cycle as informative as its parts.
"""

from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from .action import SELF, Action

Vector = NDArray[np.float64]
Kind = Literal["plain", "draft", "verify", "cycle"]
"""What a timing is of: T_T, T_D, T_V(γ), or γ·T_D + T_V(γ)."""

KNOTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
"""Rows where the GEMM curve may bend: two per doubling, on the tile sizes of GPU and CPU kernels."""
_KNOTS = np.array(KNOTS, dtype=float)
_ROWS = len(KNOTS)  # one weights term and a term per piece of the curve
_PER_KTOKEN = 1e-3


class Padding(BaseModel):
    """How rows grow to the sizes for which graphs were captured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    draft_to_cycle: bool = False
    """A drafter's rows are padded to multiples of γ+1: the capture sizes of an engine that captured them for γ."""
    captured_rows: tuple[int, ...] = ()
    """Captured row counts, ascending. Rows are padded to the next one, beyond the last not at all."""

    def target(self, rows: int) -> int:
        """Rows that the target really computes."""
        return next((size for size in self.captured_rows if size >= rows), rows)

    def draft(self, batch: int, draft_length: int) -> int:
        """Rows that a drafter really computes at `batch` requests."""
        rows = -(-batch // (draft_length + 1)) * (draft_length + 1) if self.draft_to_cycle else batch
        return self.target(rows)


class Terms:
    """Names and positions of all θ for a set of drafters, and the vectors x."""

    def __init__(self, drafters: tuple[str, ...] = (SELF,), padding: Padding | None = None) -> None:
        self.drafters = drafters
        self.padding = padding or Padding()
        self._plain = _ROWS
        self._verify = self._plain + 4
        self._draft = {name: self._verify + 5 + i * (_ROWS + 3) for i, name in enumerate(drafters)}
        self.size = self._verify + 5 + len(drafters) * (_ROWS + 3)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """One name per θ, with its unit."""
        rows = ["weights_s", *(f"rows_{a}_{b}_s" for a, b in pairwise(KNOTS))]
        each = ["request_s", "kv_s_per_ktoken", "context_s_per_ktoken"]
        names = [f"target.{name}" for name in rows]
        names += [f"plain.{name}" for name in ("launch_s", *each)]
        names += [f"verify.{name}" for name in ("launch_s", *each, "attention_s_per_ktoken")]
        for drafter in self.drafters:
            names += [f"draft.{drafter}.{name}" for name in (*rows, *each)]
        return tuple(names)

    def block(self, name: str) -> slice:
        """Positions of the block `target`, `plain`, `verify` or `draft.X`."""
        inside = [i for i, full in enumerate(self.names) if full.startswith(name + ".")]
        return slice(inside[0], inside[-1] + 1)

    def vector(self, kind: Kind, batch: int, context: float, draft_length: int = 0, drafter: str = SELF) -> Vector:
        """x of one timing: `batch` requests with a mean context of `context` tokens."""
        x = np.zeros(self.size)
        if kind == "plain":
            self._add_target(x, batch, context, 0)
        elif kind == "draft":
            self._add_draft(x, batch, context, draft_length, drafter, 1)
        else:
            self._add_target(x, batch, context, draft_length)
            if kind == "cycle":
                self._add_draft(x, batch, context, draft_length, drafter, draft_length)
        return x

    def step(self, batch: int, context: float, verified: int, drafted: int, drafter: str = SELF) -> Vector:
        """x of an engine step that verifies `verified` tokens per request and then drafts `drafted`."""
        x = np.zeros(self.size)
        self._add_target(x, batch, context, verified)
        if drafted:
            self._add_draft(x, batch, context, drafted, drafter, drafted)
        return x

    def cycles(self, batch: int, context: float, actions: tuple[Action, ...]) -> Vector:
        """x of a whole draft-verify cycle of each action; shape [actions, size]."""
        return np.stack([self.step(batch, context, a.draft_length, a.draft_length, a.drafter) for a in actions])

    def _add_target(self, x: Vector, batch: int, context: float, verified: int) -> None:
        queries = verified + 1
        self._add_rows(x, 0, self.padding.target(batch * queries), 1.0)
        kv, serial = batch * context * _PER_KTOKEN, context * _PER_KTOKEN
        if verified:
            x[self._verify : self._verify + 5] = (1.0, batch, kv, serial, kv * queries)
        else:
            x[self._plain : self._plain + 4] = (1.0, batch, kv, serial)

    def _add_draft(self, x: Vector, batch: int, context: float, length: int, drafter: str, times: int) -> None:
        start = self._draft[drafter]
        self._add_rows(x, start, self.padding.draft(batch, length), times)
        ktokens = context * _PER_KTOKEN
        x[start + _ROWS : start + _ROWS + 3] += (times * batch, times * batch * ktokens, times * ktokens)

    @staticmethod
    def _add_rows(x: Vector, start: int, rows: int, times: float) -> None:
        x[start] += times
        pieces = np.maximum((rows - _KNOTS[:-1]) / np.diff(_KNOTS), 0.0)
        pieces[:-1] = np.minimum(pieces[:-1], 1.0)  # the last piece goes on: beyond it all is compute
        x[start + 1 : start + _ROWS] += times * pieces
