"""Which point to measure next: the one that spares most regret.

Bayesian design for decisions (Chaloner and Verdinelli 1995, https://doi.org/10.1214/ss/1177009939): with a linear model
and Gaussian beliefs the reduction of variance follows from where a point lies, not from what it will show. What counts
of it is how much less is expected to be lost by taking the action that seems best: a time that no decision hangs on is
not measured, however little is known of it. Each measured point changes the model by which the next is chosen.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .action import Action
from .cost_model import CostModel
from .fit import Fit, fit
from .regret import ALPHAS, acceptance_length
from .terms import Vector
from .timing import Timing

_LEAST_DOUBT = 1e-9


def gains(
    model: CostModel, candidates: Sequence[Vector], loads: Sequence[tuple[int, float]], acts: tuple[Action, ...]
) -> Vector:
    """By how much one more timing of each candidate reduces the expected regret, summed over loads and `ALPHAS`.

    A rival that is behind the best action by g, in doubt by σ, loses σ·φ(g/σ) - g·Φ(-g/σ) on average, which falls by
    φ(g/σ) / 2σ with the variance of their difference.

    Args:
        model: what is believed now.
        candidates: terms of what could be measured.
        loads: (B, S) of interest.
        acts: actions between which to choose there.
    """
    taus = np.array([[acceptance_length(alpha, act.draft_length) for act in acts] for alpha in ALPHAS])
    rivals = [_rivals(model, model.terms.cycles(batch, context, acts), taus) for batch, context in loads]
    differences, behind = (np.concatenate(parts) for parts in zip(*rivals, strict=True))
    variance = np.einsum("rk,rk->r", differences @ model.covariance, differences)
    doubt = np.sqrt(np.maximum(variance, _LEAST_DOUBT**2))
    worth = np.exp(-0.5 * (behind / doubt) ** 2) / (2.0 * np.sqrt(2.0 * np.pi) * doubt)
    rows = np.stack(candidates)
    beliefs = rows @ model.covariance
    own = np.einsum("ck,ck->c", beliefs, rows) + (model.noise * (rows @ model.mean)) ** 2
    return (beliefs @ differences.T) ** 2 @ worth / own  # the Kalman formula


def _rivals(model: CostModel, cycles: Vector, taus: Vector) -> tuple[Vector, Vector]:
    """Each action against the best one at each α: difference of relative times, and how far it is behind.

    Shapes [rivals, terms] and [rivals].
    """
    seconds = np.maximum(cycles @ model.mean, 1e-12)
    relative, per_token = cycles / seconds[:, None], np.log(seconds) - np.log(taus)
    best = np.argmin(per_token, axis=1)
    differences = relative[None] - relative[best][:, None]
    return differences.reshape(-1, cycles.shape[1]), (per_token - per_token.min(axis=1, keepdims=True)).reshape(-1)


def choose(
    candidates: Sequence[Timing],
    count: int,
    acts: tuple[Action, ...],
    refit: Callable[[Sequence[Timing]], Fit] = fit,
) -> Iterator[int]:
    """Indices of `count` candidates in the order in which to measure them.

    A candidate's `seconds` count only once its index was yielded. The first is the cheapest plain step.
    """
    loads = sorted({(candidate.batch, candidate.context) for candidate in candidates})
    plain = [i for i, candidate in enumerate(candidates) if candidate.plain]
    chosen = [min(plain, key=lambda i: (candidates[i].batch, candidates[i].context))]
    yield chosen[0]
    left = [i for i in range(len(candidates)) if i != chosen[0]]
    while left and len(chosen) < count:
        model = refit([candidates[i] for i in chosen]).model
        rows = [candidates[i].vector(model.terms) for i in left]
        best = left[int(np.argmax(gains(model, rows, loads, acts)))]
        left.remove(best)
        chosen.append(best)
        yield best
