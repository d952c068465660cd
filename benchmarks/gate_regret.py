"""How well the gate's cost model chooses γ on a measured sweep, against simpler gates and the published one.

Needs no engine and no GPU: measured times are replayed, or with `--made-up` those of sweeps made up from the measured
one (see benchmarks/made_up.py), where the cost model is judged against the published model's own fit. Regret is the
measured time per token of the γ chosen over that of the best γ, less 1, at every (B, S) of the sweep and α of 0.7, 0.8,
0.9, 0.95 and 0.98 (see gate/regret.py).
"""

import random
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from scipy.optimize import nnls

from nemo_rl_efficientrollout.errors import UserError
from nemo_rl_efficientrollout.gate.action import actions
from nemo_rl_efficientrollout.gate.cost_model import CostModel
from nemo_rl_efficientrollout.gate.design import choose
from nemo_rl_efficientrollout.gate.fit import fit, generic_priors
from nemo_rl_efficientrollout.gate.model_constants import ModelConstants, read_model_constants, sharpened
from nemo_rl_efficientrollout.gate.prior import Prior
from nemo_rl_efficientrollout.gate.regret import (
    Measured,
    Policy,
    Regret,
    acceptance_length,
    accuracy,
    always,
    batch_table,
    by_model,
    judge,
)
from nemo_rl_efficientrollout.gate.sweep import read_sweep
from nemo_rl_efficientrollout.gate.terms import Terms
from nemo_rl_efficientrollout.gate.timing import Timing
from nemo_rl_efficientrollout.simulate.roofline import Roofline

from .made_up import made_up
from .published_gate import THRESHOLD, fit_published
from .record import Parser, Progress, Record, at_least, check_writable

BUDGETS = (16, 24, 48)
RANDOM_ROWS = 24
GOAL_RATIO = 1.3
"""Of our mean regret to the published fit's, on a sweep that nothing was made for."""
FIXED = (3, 7)
"""γ of the published gate, which turns one length on and off."""


def main(arguments: list[str] | None = None) -> int:
    """Fit, judge, print, write."""
    parser = Parser(prog="python -m benchmarks.gate_regret", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sweep", type=Path, required=True, metavar="CSV", help="measured times")
    parser.add_argument("--model-constants", type=Path, metavar="JSON", help="for the published model")
    parser.add_argument("--seeds", type=at_least(1), default=20, help="draws of random rows; default: 20")
    parser.add_argument("--made-up", type=at_least(1), metavar="N", help="N sweeps made up from this one instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record here")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table here")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    options = parser.parse_args(arguments)
    check_writable(parser, options.json, options.markdown)
    try:
        timings = read_sweep(options.sweep)
        constants = read_model_constants(options.model_constants) if options.model_constants else None
    except UserError as error:
        parser.error(str(error))
    progress = Progress(options.quiet)
    if options.made_up is not None:
        record = _made_up(timings, options, progress)
    else:
        record = _measured(timings, constants, options, progress)
    # Not closed, which would say how busy the machine was: nothing is timed here.
    record.show()
    record.write(options.json, options.markdown)
    return 0


def _made_up(timings: list[Timing], options: Any, progress: Progress) -> Record:
    """Ours with all rows and with those it chooses, and the published fit with all rows, sweep by sweep."""
    names = ("published", "all rows", f"{RANDOM_ROWS} rows")
    record = Record(
        "gate_regret_made_up",
        f"Regret on sweeps made up from {options.sweep.name}",
        {"sweep": options.sweep.name, "made_up": options.made_up},
        (
            "sweep",
            *(f"{name}: {part}" for name in names for part in ("mean", "p95")),
            *(f"{n} / published" for n in names[1:]),
        ),
    )
    ratios: dict[str, list[float]] = defaultdict(list)
    for index, sweep in enumerate(made_up(timings, options.made_up)):
        with progress.phase(f"sweep {index + 1} of {options.made_up}"):
            measured = Measured(sweep.timings)
            published = fit_published(sweep.timings, sweep.constants, sweep.bandwidth, sweep.flops)
            rows = _chosen(sweep.timings, measured, RANDOM_ROWS)
            policies = (by_roofline(published), by_model(fit(sweep.timings).model), by_model(fit(rows).model))
            regrets = {name: judge(policy, measured) for name, policy in zip(names, policies, strict=True)}
        for name in names[1:]:
            ratios[name].append(regrets[name].mean / regrets["published"].mean)
        cells = [f"{100 * value:.2f} %" for regret in regrets.values() for value in (regret.mean, regret.p95)]
        record.rows.append((sweep.name, *cells, *(f"{ratios[name][-1]:.2f}" for name in names[1:])))
        record.results.append(
            {"sweep": sweep.name} | {n: {"regret_mean": r.mean, "regret_p95": r.p95} for n, r in regrets.items()}
        )
    for name, found in ratios.items():
        within = sum(ratio <= GOAL_RATIO for ratio in found)
        record.notes.append(
            f"{name}: mean regret {median(found):.2f} times the published fit's (median), at most {max(found):.2f};"
            f" within {GOAL_RATIO} times on {within} of {len(found)} sweeps"
        )
    record.notes.append("published: its own fit of its own model to all rows, choosing among all γ")
    return record


def _measured(timings: list[Timing], constants: ModelConstants | None, options: Any, progress: Progress) -> Record:
    measured = Measured(timings)
    record = Record(
        "gate_regret",
        f"Regret of gates on {options.sweep.name}",
        {"sweep": options.sweep.name, "rows": len(timings), "seeds": options.seeds},
        ("gate", "mean", "p95", "max", *(f"error γ={g}" for g in measured.draft_lengths[1:]), "signs"),
    )
    _simple(record, measured)
    if constants is None:
        record.notes.append("no --model-constants: the published model is left out")
    else:
        with progress.phase("fitting the published model"):
            _published(record, measured, fit_published(timings, constants))
    _ours(record, timings, measured, constants, options.seeds, progress)
    return record


def _simple(record: Record, measured: Measured) -> None:
    _add(record, "plain decoding", [judge(always(0), measured)])
    for length in measured.draft_lengths[1:]:
        _add(record, f"always γ = {length}", [judge(always(length), measured)])
    _add(record, "batch table", [judge(batch_table(measured), measured)])
    record.notes.append("batch table: γ by B alone, the best on average at α = 0.9, made from this very sweep")


def _published(record: Record, measured: Measured, model: Roofline) -> None:
    for length in FIXED:
        _add(record, f"published gate, γ = {length}", [judge(_on_off(model, length), measured)])
    errors: dict[int, list[float]] = defaultdict(list)
    for (batch, context), cell in measured.cycles.items():
        for length in list(cell)[1:]:
            errors[length].append(abs(model.cycle(batch, context, length) / cell[length] - 1.0))
    found = {g: fmean(values) for g, values in sorted(errors.items())}
    _add(record, "published model, best γ", [judge(by_roofline(model), measured)], found)
    record.notes.append(
        f"published gate: one γ, on while its model predicts {THRESHOLD:g} times the speed of plain decoding; "
        "published model: the same constants, choosing among all γ; all rows, its own fit"
    )


def _on_off(model: Roofline, length: int) -> Policy:
    def policy(batch: int, context: float, alpha: float, lengths: tuple[int, ...]) -> int:
        gain = acceptance_length(alpha, length) * model.cycle(batch, context, 0) / model.cycle(batch, context, length)
        return length if length in lengths and gain >= THRESHOLD else 0

    return policy


def by_roofline(model: Roofline) -> Policy:
    """The γ with the most tokens per second by the published model."""

    def policy(batch: int, context: float, alpha: float, lengths: tuple[int, ...]) -> int:
        return min(lengths, key=lambda g: model.cycle(batch, context, g) / acceptance_length(alpha, g))

    return policy


def _ours(
    record: Record,
    timings: list[Timing],
    measured: Measured,
    constants: ModelConstants | None,
    seeds: int,
    progress: Progress,
) -> None:
    draws = [_draw(timings, seed) for seed in range(seeds)]
    with progress.phase(f"{RANDOM_ROWS} random rows, {seeds} times"):
        _add_models(record, f"{RANDOM_ROWS} random rows, least squares", [_least_squares(d) for d in draws], timings)
        _add_models(record, f"{RANDOM_ROWS} random rows, our fit", [fit(d).model for d in draws], timings)
    with progress.phase("choosing rows"):
        chosen = _chosen(timings, measured, max(BUDGETS))
        for count in BUDGETS:
            _add_models(record, f"ours, {count} chosen rows", [fit(chosen[:count]).model], timings)
    if constants is not None:
        with progress.phase("choosing rows, knowing the architecture"):

            def priors(rows: Sequence[Timing]) -> list[Prior]:
                return sharpened(generic_priors(rows), constants)

            sharp = _chosen(timings, measured, RANDOM_ROWS, priors)
            model = fit(sharp, priors(sharp)).model
            _add_models(record, f"ours, {RANDOM_ROWS} rows, architecture known", [model], timings)
    _add_models(record, "ours, all rows", [fit(timings).model], timings)
    record.notes.append("error: mean absolute relative error of γ·T_D + T_V; signs: gains told from losses")
    record.notes.append(
        f"random rows: mean over {seeds} draws; least squares: non-negative, of relative errors, no prior"
    )


def _chosen(
    timings: list[Timing],
    measured: Measured,
    count: int,
    priors: Callable[[Sequence[Timing]], list[Prior]] = generic_priors,
) -> list[Timing]:
    return [timings[i] for i in choose(timings, count, actions(measured.draft_lengths), priors)]


def _draw(timings: list[Timing], seed: int) -> list[Timing]:
    """Random rows, drawn again until every kind is among them."""
    chance = random.Random(seed)
    while True:
        rows = chance.sample(timings, min(RANDOM_ROWS, len(timings)))
        if {t.kind for t in rows} == {t.kind for t in timings}:
            return rows


def _least_squares(rows: Sequence[Timing]) -> CostModel:
    terms = Terms()
    relative = np.stack([t.vector(terms) / t.seconds for t in rows])
    theta, _ = nnls(relative, np.ones(len(rows)), maxiter=50 * terms.size)
    return CostModel(terms, theta, np.zeros((terms.size, terms.size)), 0.0)


def _add_models(record: Record, name: str, models: list[CostModel], timings: list[Timing]) -> None:
    measured = Measured(timings)
    regrets = [judge(by_model(model), measured) for model in models]
    found = [accuracy(model, timings) for model in models]
    errors = {g: fmean(a.errors["cycle", g] for a in found) for g in measured.draft_lengths[1:]}
    _add(record, name, regrets, errors, fmean(a.signs for a in found))


def _add(
    record: Record,
    name: str,
    regrets: list[Regret],
    errors: Mapping[int, float] | None = None,
    signs: float | None = None,
) -> None:
    """One line of the table; `errors` are those of cycles by γ."""
    result = {key: fmean(getattr(regret, key) for regret in regrets) for key in ("mean", "p95", "max")}
    cells = [f"{100 * value:.2f} %" for value in result.values()]
    cells += [f"{100 * error:.1f} %" for error in (errors or {}).values()]
    cells += [""] * (len(record.columns) - len(cells) - 2) + ["" if signs is None else f"{100 * signs:.1f} %"]
    record.rows.append((name, *cells))
    record.results.append(
        {
            "gate": name,
            **{f"regret_{key}": value for key, value in result.items()},
            "cycle_error": {str(length): error for length, error in (errors or {}).items()},
            "sign_accuracy": signs,
        }
    )


if __name__ == "__main__":
    sys.exit(main())
