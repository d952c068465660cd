"""How good a way to choose γ is, judged by a sweep: measured time per token of the choice over that of the best choice.

    time per token of γ = 0: T_T        of γ > 0: (γ·T_D + T_V(γ)) / τ(α, γ),  τ = (1 - α^(γ+1)) / (1 - α)

Regret is the ratio of the chosen γ's to the best γ's, less 1. Every (B, S) with a row of plain decoding counts once
for every α. Nothing predicted enters: both are measured times, so a model that errs where nothing depends on it is
not punished, and one that errs by little near a break-even is.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, median

import numpy as np

from .action import SELF, actions
from .cost_model import CostModel
from .timing import Timing

ALPHAS = (0.7, 0.8, 0.9, 0.95, 0.98)
TABLE_ALPHA = 0.9
"""Acceptance rate for which a batch table is made: it cannot follow acceptance."""

Policy = Callable[[int, float, float, tuple[int, ...]], int]
"""(B, S, α, draft lengths on offer, ascending, 0 first) to the γ chosen."""


def acceptance_length(alpha: float, draft_length: int) -> float:
    """τ: tokens per verification, bonus token included, if each draft is accepted with probability `alpha` < 1."""
    return (1.0 - alpha ** (draft_length + 1)) / (1.0 - alpha)


class Measured:
    """A sweep by (B, S): seconds of a cycle of every γ. Repeated rows count by their median."""

    def __init__(self, timings: Sequence[Timing]) -> None:
        rows: dict[tuple[str, int, float, int], list[float]] = defaultdict(list)
        for timing in timings:
            rows[timing.kind, timing.batch, timing.context, timing.draft_length].append(timing.seconds)
        seconds = {key: median(values) for key, values in rows.items()}
        self.cycles: dict[tuple[int, float], dict[int, float]] = {
            (batch, context): {0: value}
            for (kind, batch, context, _), value in sorted(seconds.items())
            if kind == "plain"
        }
        for _, batch, context, length in sorted(seconds):
            cell = self.cycles.get((batch, context))
            if cell is None or not length:
                continue
            parts = [seconds.get((kind, batch, context, length)) for kind in ("draft", "verify", "cycle")]
            draft, verify, whole = parts
            if draft is not None and verify is not None:
                cell[length] = length * draft + verify
            elif whole is not None:
                cell[length] = whole

    @property
    def draft_lengths(self) -> tuple[int, ...]:
        """Every γ measured anywhere, ascending."""
        return tuple(sorted({length for cell in self.cycles.values() for length in cell}))

    def per_token(self, batch: int, context: float, alpha: float) -> dict[int, float]:
        """Measured seconds per token of every γ that was measured at (B, S)."""
        return {g: s / acceptance_length(alpha, g) for g, s in self.cycles[batch, context].items()}


@dataclass(frozen=True, slots=True)
class Cell:
    """One decision."""

    batch: int
    context: float
    alpha: float
    chosen: int
    best: int
    regret: float


@dataclass(frozen=True)
class Regret:
    """Of all decisions."""

    cells: tuple[Cell, ...]

    @cached_property
    def mean(self) -> float:
        return fmean(cell.regret for cell in self.cells)

    @cached_property
    def p95(self) -> float:
        """95th percentile, interpolated."""
        return float(np.percentile([cell.regret for cell in self.cells], 95))

    @property
    def max(self) -> float:
        return self.worst[0].regret

    @cached_property
    def worst(self) -> tuple[Cell, ...]:
        """All cells, the costliest first."""
        return tuple(sorted(self.cells, key=lambda cell: -cell.regret))


def judge(policy: Policy, measured: Measured, alphas: Sequence[float] = ALPHAS) -> Regret:
    """Regret of a policy over the whole sweep."""
    return Regret(tuple(_cells(policy, measured, alphas)))


def _cells(policy: Policy, measured: Measured, alphas: Sequence[float]) -> Iterator[Cell]:
    for batch, context in measured.cycles:
        for alpha in alphas:
            times = measured.per_token(batch, context, alpha)
            chosen = policy(batch, context, alpha, tuple(sorted(times)))
            best = min(times, key=lambda length: times[length])
            yield Cell(batch, context, alpha, chosen, best, times[chosen] / times[best] - 1.0)


def always(draft_length: int) -> Policy:
    """One γ whatever happens; 0 is plain decoding. Where it was not measured, the next shorter one that was."""

    def policy(batch: int, context: float, alpha: float, lengths: tuple[int, ...]) -> int:
        return max(length for length in lengths if length <= draft_length)

    return policy


def batch_table(measured: Measured, alpha: float = TABLE_ALPHA) -> Policy:
    """γ by batch size alone, as vLLM's `num_speculative_tokens_per_batch_size`.

    Each measured batch size gets the γ whose time per token, relative to the best γ and averaged over context
    lengths, is least at one α. It is made from the very sweep that judges it: the best that any such table can do.
    Other batch sizes use the entry of the next smaller one.
    """
    table: dict[int, int] = {}
    for batch in sorted({batch for batch, _ in measured.cycles}):
        times = [measured.per_token(b, context, alpha) for b, context in measured.cycles if b == batch]
        common = sorted(set.intersection(*(set(cell) for cell in times)))
        table[batch] = min(common, key=lambda g: fmean(cell[g] / min(cell.values()) for cell in times))
    least = min(table)

    def policy(batch: int, context: float, alpha: float, lengths: tuple[int, ...]) -> int:
        entry = table[max((size for size in table if size <= batch), default=least)]
        return always(entry)(batch, context, alpha, lengths)

    return policy


def by_model(model: CostModel, drafter: str = SELF) -> Policy:
    """The γ with the most predicted tokens per second."""

    def policy(batch: int, context: float, alpha: float, lengths: tuple[int, ...]) -> int:
        speeds = speedups(model, batch, context, alpha, lengths, drafter)
        return max(speeds, key=lambda length: speeds[length])

    return policy


def speedups(
    model: CostModel, batch: int, context: float, alpha: float, lengths: Sequence[int], drafter: str = SELF
) -> dict[int, float]:
    """Predicted tokens per second of each γ over those of plain decoding; not finite where no time is predicted."""
    chosen = actions(tuple(lengths), (drafter,))
    seconds = model.cycles(batch, context, chosen)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = seconds[0] / seconds
    return {
        action.draft_length: acceptance_length(alpha, action.draft_length) * float(ratio)
        for action, ratio in zip(chosen, ratios, strict=True)
    }


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Errors of a cost model against a sweep."""

    errors: Mapping[tuple[str, int], float]
    """Mean absolute relative error by (kind, γ): kinds plain, draft, verify and cycle."""
    signs: float
    """Share of (B, S, γ, α) where speculation was rightly predicted to gain, or not to."""


def accuracy(model: CostModel, timings: Sequence[Timing], alphas: Sequence[float] = ALPHAS) -> Accuracy:
    """How far predicted times, and the signs of predicted gains, are from measured ones."""
    measured = Measured(timings)
    errors: dict[tuple[str, int], list[float]] = defaultdict(list)
    for t in timings:
        if t.kind in ("plain", "draft", "verify"):
            predicted = float(t.vector(model.terms) @ model.mean)
            errors[t.kind, t.draft_length].append(abs(predicted / t.seconds - 1.0))
    right = []
    for (batch, context), cell in measured.cycles.items():
        for length in list(cell)[1:]:
            predicted = model.seconds("cycle", batch, context, length)
            errors["cycle", length].append(abs(predicted / cell[length] - 1.0))
        for alpha in alphas:
            times, speeds = (
                measured.per_token(batch, context, alpha),
                speedups(model, batch, context, alpha, tuple(cell)),
            )
            right += [(speeds[length] > 1.0) == (times[length] < times[0]) for length in list(cell)[1:]]
    return Accuracy({key: fmean(values) for key, values in sorted(errors.items())}, fmean(right))
