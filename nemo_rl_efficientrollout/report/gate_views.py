"""The numbers behind the plots of a cost model: times, decisions and break-even lines on a grid of (B, S)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nemo_rl_efficientrollout.gate.cost_model import CostModel
from nemo_rl_efficientrollout.gate.regret import Measured, acceptance_length, by_model
from nemo_rl_efficientrollout.gate.terms import Kind
from nemo_rl_efficientrollout.gate.timing import Timing

BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
CONTEXTS = (256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)
DRAFT_LENGTHS = (0, 3, 7, 11, 15)
ALPHAS = (0.7, 0.8, 0.9, 0.95)
KINDS = {"plain": "T_T", "draft": "T_D", "verify": "T_V", "cycle": "cycle"}


@dataclass(frozen=True)
class Line:
    """Points (x, y) that belong together."""

    name: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    """None: no value here."""


@dataclass(frozen=True)
class Views:
    """Everything that is drawn."""

    lengths: tuple[int, ...]
    context: float
    """S of `times` and `break_even`."""
    fit: tuple[Line, ...]
    """Measured against predicted milliseconds, by kind; empty without a sweep."""
    times: tuple[Line, ...]
    """Milliseconds over B."""
    seen: tuple[Line, ...]
    """The same, measured."""
    batches: tuple[int, ...]
    contexts: tuple[float, ...]
    decisions: dict[float, np.ndarray]
    """By α: the γ chosen; shape [contexts, batches]."""
    break_even: tuple[Line, ...]
    """By γ > 0: least α from which it is faster than plain decoding, over B."""


def views(model: CostModel, timings: Sequence[Timing] = ()) -> Views:
    """All plots of a cost model, on the grid of the sweep if there is one."""
    measured = Measured(timings)
    batches = tuple(sorted({t.batch for t in timings})) or BATCHES
    contexts = tuple(sorted({t.context for t in timings})) or CONTEXTS
    lengths = measured.draft_lengths if len(measured.draft_lengths) > 1 else DRAFT_LENGTHS
    context = contexts[len(contexts) // 2]
    return Views(
        lengths=lengths,
        context=context,
        fit=tuple(_against(model, timings)),
        times=tuple(_times(model, batches, context, lengths)),
        seen=tuple(_seen(timings, context)),
        batches=batches,
        contexts=contexts,
        decisions={alpha: _decisions(model, batches, contexts, alpha, lengths) for alpha in ALPHAS},
        break_even=tuple(
            Line(f"γ = {length}", batches, tuple(_least_alpha(model, b, context, length) for b in batches))
            for length in lengths
            if length
        ),
    )


def _against(model: CostModel, timings: Sequence[Timing]) -> list[Line]:
    lines = []
    for kind, name in KINDS.items():
        rows = [t for t in timings if t.kind == kind]
        predicted = tuple(1e3 * float(t.vector(model.terms) @ model.mean) for t in rows)
        if rows:
            lines.append(Line(name, tuple(1e3 * t.seconds for t in rows), predicted))
    return lines


def _times(model: CostModel, batches: Sequence[int], context: float, lengths: Sequence[int]) -> list[Line]:
    longest = max(lengths)

    def line(name: str, kind: Kind, length: int) -> Line:
        return Line(name, tuple(batches), tuple(1e3 * model.seconds(kind, b, context, length) for b in batches))

    verify = [line(f"T_V, γ = {length}", "verify", length) for length in lengths if length]
    return [line("T_T", "plain", 0), line(f"T_D, γ = {longest}", "draft", longest), *verify]


def _seen(timings: Sequence[Timing], context: float) -> list[Line]:
    rows: dict[str, list[Timing]] = {}
    for t in timings:
        if t.context == context and t.kind in ("plain", "draft", "verify"):
            rows.setdefault(KINDS[t.kind] + (f", γ = {t.draft_length}" if t.draft_length else ""), []).append(t)
    return [
        Line(name, tuple(t.batch for t in part), tuple(1e3 * t.seconds for t in part)) for name, part in rows.items()
    ]


def _decisions(
    model: CostModel, batches: Sequence[int], contexts: Sequence[float], alpha: float, lengths: tuple[int, ...]
) -> np.ndarray:
    choose = by_model(model)
    return np.array([[choose(batch, context, alpha, lengths) for batch in batches] for context in contexts])


def _least_alpha(model: CostModel, batch: int, context: float, length: int) -> float | None:
    """The α at which τ(α, γ) is the cycle over T_T, by bisection; None if even certain acceptance is too little."""
    needed = model.seconds("cycle", batch, context, length) / model.seconds("plain", batch, context)
    low, high = 0.0, 1.0 - 1e-9
    if acceptance_length(high, length) < needed:
        return None
    while high - low > 1e-4:
        middle = (low + high) / 2.0
        low, high = (low, middle) if acceptance_length(middle, length) >= needed else (middle, high)
    return high
