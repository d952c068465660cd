"""What the runs of `train_small` say: reward curves and their difference, times, acceptance by step and position."""

from collections.abc import Sequence
from statistics import mean, median
from typing import Any

from ..measure import ratio_interval
from ..record import Record

MODES: dict[str, dict[str, Any]] = {"plain": {"mode": "off"}, "speculative": {"mode": "auto"}}
"""Of the gate, by name of a run."""


def difference(pairs: Sequence[tuple[float, float]]) -> dict[str, float] | None:
    """Mean of second less first, with Student's 95 % interval over pairs; None for one pair, which has none."""
    from scipy.stats import t

    if len(pairs) < 2:
        return None
    gaps = [second - first for first, second in pairs]
    middle = mean(gaps)
    error = (sum((gap - middle) ** 2 for gap in gaps) / (len(gaps) - 1) / len(gaps)) ** 0.5
    reach = float(t.ppf(0.975, len(gaps) - 1)) * error
    return {"value": middle, "low": middle - reach, "high": middle + reach}


def _third(values: Sequence[float], last: bool) -> float:
    size = max(1, len(values) // 3)
    return mean(values[-size:] if last else values[:size])


def report(record: Record, runs: dict[tuple[str, int], dict[str, Any]], options: Any) -> None:
    """Add rows, notes and the comparison of all runs."""
    record.results += runs.values()
    for mode in MODES:
        own = [runs[mode, seed] for seed in options.seeds]
        kept, reached = ([sum(c) for c in zip(*(run[key] for run in own), strict=True)] for key in ("kept", "reached"))
        rates = [one for run in own for one in run["acceptance_rate"] if one is not None]
        lengths = [one for run in own for one in run["acceptance_length"] if one is not None]
        record.rows.append(
            (
                mode,
                f"{mean(_third(run['reward'], last=False) for run in own):.3f}",
                f"{mean(_third(run['reward'], last=True) for run in own):.3f}",
                f"{median(s for run in own for s in run['rollout_seconds']):.3f}",
                f"{median(s for run in own for s in run['total_seconds']):.3f}",
                f"{mean(rates):.3f}" if rates else "",
                f"{mean(lengths):.2f}" if lengths else "",
                f"{mean(one for run in own for one in run['speculating_fraction']):.0%}",
            )
        )
        if any(reached):
            shares = ", ".join(f"{k / r:.3f}" for k, r in zip(kept, reached, strict=True) if r)
            record.notes.append(f"{mode}: accepted at position 1, 2, …, if reached: {shares}")
            by_step = ", ".join("" if one is None else f"{one:.2f}" for one in own[0]["acceptance_rate"])
            record.notes.append(f"{mode}: accepted by step, seed {options.seeds[0]}: {by_step}")
    _compare(record, runs, options)


def _compare(record: Record, runs: dict[tuple[str, int], dict[str, Any]], options: Any) -> None:
    pairs = [[runs[mode, seed] for mode in MODES] for seed in options.seeds]
    late = difference([(_third(a["reward"], last=True), _third(b["reward"], last=True)) for a, b in pairs])
    curve = [difference([(a["reward"][i], b["reward"][i]) for a, b in pairs]) for i in range(options.updates)]

    def per_token(run: dict[str, Any], name: str) -> list[float]:
        return [seconds / tokens for seconds, tokens in zip(run[name], run["tokens"], strict=True)]

    ratios = {
        name: ratio_interval([(per_token(a, name), per_token(b, name)) for a, b in pairs])
        for name in ("rollout_seconds", "total_seconds")
    }
    record.results.append(
        {
            "reward_difference": late,
            "reward_difference_by_step": curve,
            **{f"plain_over_speculative_{name}": dict(zip(("value", "low", "high"), ratio, strict=True))
               for name, ratio in ratios.items()},
        }
    )  # fmt: skip
    if late is not None:
        interval = f"{late['low']:.3f} to {late['high']:.3f}"
        record.notes.append(f"reward, last third, speculative less plain: {late['value']:.3f} ({interval}), by seeds")
    for name, (value, low, high) in ratios.items():
        record.notes.append(f"{name} per token, plain over speculative: {value:.3f} ({low:.3f} to {high:.3f})")
