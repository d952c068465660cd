"""Which point to measure next: the one that narrows the predicted cycle times most.

Bayesian I-optimal design (Chaloner and Verdinelli 1995, https://doi.org/10.1214/ss/1177009939): with a linear model
and Gaussian beliefs the reduction of variance follows from where a point lies, not from what it will show, and each
measured point changes the model by which the next is chosen.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .action import Action
from .cost_model import CostModel
from .fit import Fit, fit
from .terms import Vector
from .timing import Timing

_ROUNDING = 1e-9


def gains(
    model: CostModel, candidates: Sequence[Vector], loads: Sequence[tuple[int, float]], acts: tuple[Action, ...]
) -> Vector:
    """By how much one more timing of each candidate reduces the summed relative variance of what is to be predicted.

    Args:
        model: what is believed now.
        candidates: terms of what could be measured.
        loads: (B, S) of interest.
        acts: actions whose cycles matter there.
    """
    goals = np.concatenate([model.terms.cycles(batch, context, acts) for batch, context in loads])
    goals /= np.maximum(goals @ model.mean, 1e-12)[:, None]
    rows = np.stack(candidates)
    beliefs = rows @ model.covariance
    own = np.einsum("ck,ck->c", beliefs, rows) + (model.noise * (rows @ model.mean)) ** 2
    return np.sum((beliefs @ goals.T) ** 2, axis=1) / own  # the Kalman formula


def choose(
    candidates: Sequence[Timing],
    count: int,
    acts: tuple[Action, ...],
    refit: Callable[[Sequence[Timing]], Fit] = fit,
) -> Iterator[int]:
    """Indices of `count` candidates in the order in which to measure them.

    A candidate's `seconds` count only once its index was yielded. The first is the cheapest plain step. Of candidates
    that are the same to the model, such as T_D at every γ, it takes one of the kind and γ that it has seen least: that
    they are the same is an assumption, and other hypotheses (see `Padding`) deny it.
    """
    loads = sorted({(candidate.batch, candidate.context) for candidate in candidates})
    plain = [i for i, candidate in enumerate(candidates) if candidate.plain]
    chosen = [min(plain, key=lambda i: (candidates[i].batch, candidates[i].context))]
    yield chosen[0]
    left = [i for i in range(len(candidates)) if i != chosen[0]]
    while left and len(chosen) < count:
        model = refit([candidates[i] for i in chosen]).model
        gain = gains(model, [candidates[i].vector(model.terms) for i in left], loads, acts)
        equal = [left[i] for i in np.flatnonzero(gain >= (1.0 - _ROUNDING) * gain.max())]
        seen = Counter((candidates[i].kind, candidates[i].draft_length) for i in chosen)
        best = min(equal, key=lambda i: seen[candidates[i].kind, candidates[i].draft_length])
        left.remove(best)
        chosen.append(best)
        yield best
