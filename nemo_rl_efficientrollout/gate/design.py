"""Which point to measure next: the one that tells most of cycle times, and of decisions.

Bayesian design (Chaloner and Verdinelli 1995, https://doi.org/10.1214/ss/1177009939): with a linear model and Gaussian
beliefs the reduction of variance follows from where a point lies, not from what it will show, and each measured point
changes the model by which the next is chosen. Two things are wanted in equal parts: to know all times, as the model
may be wrong where it is sure, and to lose little by taking the action that seems best, which hangs on few of them.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .action import Action
from .cost_model import CostModel
from .fit import generic_priors, most_likely
from .prior import Prior
from .regret import ALPHAS, acceptance_length
from .terms import Vector
from .timing import Timing

_ROUNDING = 1e-9


def gains(
    model: CostModel, candidates: Sequence[Vector], loads: Sequence[tuple[int, float]], acts: tuple[Action, ...]
) -> Vector:
    """What one more timing of each candidate takes away of all doubt: of times, and of decisions; at most 2.

    Times: the relative variance of all cycles, summed. Decisions, summed over `ALPHAS`: an action that is behind the
    best one by g, in doubt by σ, is better after all by σ·φ(g/σ) - g·Φ(-g/σ) on average, which falls by φ(g/σ) / 2σ
    with the variance of their difference.

    Args:
        model: what is believed now.
        candidates: terms of what could be measured.
        loads: (B, S) of interest.
        acts: actions between which to choose there.
    """
    cycles = np.stack([model.terms.cycles(batch, context, acts) for batch, context in loads])  # [loads, acts, terms]
    seconds = np.maximum(cycles @ model.mean, 1e-12)
    relative = cycles / seconds[..., None]
    times = relative.reshape(-1, model.terms.size)
    differences, worth = (
        np.concatenate(parts) for parts in zip(*_decisions(model, relative, seconds, acts), strict=True)
    )
    rows = np.stack(candidates)
    beliefs = rows @ model.covariance
    own = np.einsum("ck,ck->c", beliefs, rows) + (model.noise * (rows @ model.mean)) ** 2
    known = np.sum((beliefs @ times.T) ** 2, axis=1) / np.sum(_variance(model, times))
    decided = (beliefs @ differences.T) ** 2 @ worth / np.sum(worth * _variance(model, differences))
    return (known + decided) / own  # the Kalman formula


def _decisions(
    model: CostModel, relative: Vector, seconds: Vector, acts: tuple[Action, ...]
) -> Iterator[tuple[Vector, Vector]]:
    """At each α, every action against the best one of its load: the difference of relative times, and its worth.

    Shapes [loads · acts, terms] and [loads · acts]. Times are measured with noise: a lead within it is none.
    """
    for alpha in ALPHAS:
        per_token = np.log(seconds) - np.log([acceptance_length(alpha, act.draft_length) for act in acts])
        best = np.argmin(per_token, axis=1)
        behind = (per_token - per_token.min(axis=1, keepdims=True)).reshape(-1)
        differences = (relative - relative[np.arange(len(best)), best][:, None]).reshape(-1, model.terms.size)
        doubt = np.sqrt(_variance(model, differences) + 2.0 * model.noise**2)
        yield differences, np.exp(-0.5 * (behind / doubt) ** 2) / doubt


def _variance(model: CostModel, rows: Vector) -> Vector:
    return np.einsum("rk,rk->r", rows @ model.covariance, rows)


def choose(
    candidates: Sequence[Timing],
    count: int,
    acts: tuple[Action, ...],
    priors: Callable[[Sequence[Timing]], Sequence[Prior]] = generic_priors,
) -> Iterator[int]:
    """Indices of `count` candidates in the order in which to measure them.

    A candidate's `seconds` count only once its index was yielded. The first is the cheapest plain step. Of candidates
    that are the same to the model, such as T_D at every γ, it takes one of the kind and γ that it has seen least: that
    they are the same is an assumption, and other hypotheses (see `Padding`) deny it. It reasons about the most likely
    hypothesis: of the average of all it chose no better points, and that is no Gaussian.
    """
    loads = sorted({(candidate.batch, candidate.context) for candidate in candidates})
    plain = [i for i, candidate in enumerate(candidates) if candidate.plain]
    chosen = [min(plain, key=lambda i: (candidates[i].batch, candidates[i].context))]
    yield chosen[0]
    left = [i for i in range(len(candidates)) if i != chosen[0]]
    while left and len(chosen) < count:
        measured = [candidates[i] for i in chosen]
        model = most_likely(measured, priors(measured)).model
        gain = gains(model, [candidates[i].vector(model.terms) for i in left], loads, acts)
        equal = [left[i] for i in np.flatnonzero(gain >= (1.0 - _ROUNDING) * gain.max())]
        seen = Counter((candidates[i].kind, candidates[i].draft_length) for i in chosen)
        best = min(equal, key=lambda i: seen[candidates[i].kind, candidates[i].draft_length])
        left.remove(best)
        chosen.append(best)
        yield best
