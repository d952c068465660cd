"""The fit of the published cost model (simulate/roofline.py), as a baseline: EfficientRollout's sd_toggle at 0ff0bc5.

Written from the paper's formulas and the description of its procedure, kept with its faults: one set of constants for
all γ, no row is ever doubted. Times in seconds, c_* in microseconds per request.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import differential_evolution, minimize

from nemo_rl_efficientrollout.gate.model_constants import ModelConstants
from nemo_rl_efficientrollout.gate.timing import Timing
from nemo_rl_efficientrollout.simulate.roofline import A100_FLOPS, Roofline, static

A100_BANDWIDTH = 2.039e12
"""Peak bytes per second, which bounds the fit."""
THRESHOLD = 1.05
"""Predicted speed-up from which the published gate speculates."""
_SEED = 42

Array = NDArray[np.float64]


def fit_published(
    timings: Sequence[Timing],
    constants: ModelConstants,
    bandwidth: float = A100_BANDWIDTH,
    flops: float = A100_FLOPS,
) -> Roofline:
    """Both stages of the published fit: differential evolution, then L-BFGS-B from fixed starts; the better one.

    `bandwidth` is the device's peak, `flops` what GEMMs reach on it: both are known before the fit.
    """
    known = static(constants)
    plain = _columns([t for t in timings if t.kind == "plain"])

    def target(x: Array) -> Roofline:
        return Roofline(known, x[0] * 1e12, x[1] * known.kv_bytes, 1.0, x[2], 0.0, 0.0, flops)

    def target_loss(x: Array) -> float:
        return _log_error(target(x).plain(plain[0], plain[1]), plain[3])

    peak = bandwidth / 1e12
    bounds = [(0.4 * peak, 1.05 * peak), (0.1, 2.5), (0.0, 200.0)]
    x = _minimum(target_loss, bounds, (0.75 * peak, 0.5, 10.0), 300, 1e-8)
    reached, kv_bytes, c_target = float(x[0]) * 1e12, round(x[1] * known.kv_bytes), round(float(x[2]), 1)
    cycles = _complete_cycles(timings)
    drafts = {g: _columns([t for t in timings if t.kind == "draft" and t.draft_length == g]) for g in cycles}

    def speculation(y: Array) -> Roofline:
        return Roofline(known, reached, kv_bytes, y[0], c_target, y[1], y[2], flops)

    def speculation_loss(y: Array) -> float:
        model = speculation(y)
        return float(np.mean([_loss(model, drafts[length], cycles[length]) for length in cycles]))

    y = _minimum(speculation_loss, [(1.0, 4.0), (0.0, 200.0), (0.0, 500.0)], (1.4, 30.0, 100.0), 500, 1e-10)
    return speculation(np.array([round(y[0], 3), round(y[1], 1), round(y[2], 1)]))


def _loss(model: Roofline, drafts: tuple[Array, ...], cycles: tuple[Array, ...]) -> float:
    """0.5 (T_D + T_V) + 0.5 (cycle + T_T / cycle) of one γ: mean squared log errors, the last of plain ratios.

    Only so, with T_D over every row and the others where the cycle is complete, does the loss at the published
    constants come out as the 0.017732 that their file records.
    """
    batch, context, length, plain, draft, verify = cycles
    own_plain, own_draft = model.plain(batch, context), model.draft(batch, context)
    own_verify = model.verify(batch, context, length)
    measured, predicted = length * draft + verify, length * own_draft + own_verify
    parts = _log_error(model.draft(drafts[0], drafts[1]), drafts[3]) + _log_error(own_verify, verify)
    ratio = float(np.mean((own_plain / predicted - plain / measured) ** 2))
    return 0.5 * parts + 0.5 * (_log_error(predicted, measured) + ratio)


def _complete_cycles(timings: Sequence[Timing]) -> dict[int, tuple[Array, ...]]:
    """By γ: B, S, γ, T_T, T_D, T_V of every (B, S) where all three were measured."""
    seconds = {(t.kind, t.batch, t.context, t.draft_length): t.seconds for t in timings}
    rows: dict[int, list[tuple[float, ...]]] = defaultdict(list)
    for kind, batch, context, length in seconds:
        plain, draft = seconds.get(("plain", batch, context, 0)), seconds.get(("draft", batch, context, length))
        if kind == "verify" and plain is not None and draft is not None:
            rows[length].append((batch, context, length, plain, draft, seconds["verify", batch, context, length]))
    return {
        length: tuple(np.array(column, dtype=float) for column in zip(*rows[length], strict=True))
        for length in sorted(rows)
    }


def _columns(timings: Sequence[Timing]) -> tuple[Array, Array, Array, Array]:
    rows = [(t.batch, t.context, t.draft_length, t.seconds) for t in timings]
    batch, context, length, seconds = np.array(rows, dtype=float).T
    return batch, context, length, seconds


def _log_error(predicted: Array, measured: Array) -> float:
    return float(np.mean((np.log(predicted) - np.log(measured)) ** 2))


def _minimum(
    loss: Callable[[Array], float],
    bounds: list[tuple[float, float]],
    start: tuple[float, ...],
    iterations: int,
    tolerance: float,
) -> Array:
    evolved = differential_evolution(loss, bounds, rng=np.random.RandomState(_SEED), maxiter=iterations, tol=tolerance)
    descended = minimize(loss, np.array(start), method="L-BFGS-B", bounds=bounds)
    return evolved.x if evolved.fun <= descended.fun else descended.x
