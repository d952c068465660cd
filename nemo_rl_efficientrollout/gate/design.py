"""Which point to measure next: the one that narrows the predicted cycle times most.

Bayesian I-optimal design (Chaloner and Verdinelli 1995, https://doi.org/10.1214/ss/1177009939): with a linear model
and Gaussian beliefs the reduction of variance follows from where a point lies, not from what it will show, and each
measured point changes the model by which the next is chosen.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .action import Action
from .fit import Fit, fit
from .terms import Vector
from .timing import Timing


def next_point(
    fitted: Fit, candidates: Sequence[Timing], loads: Sequence[tuple[int, float]], acts: tuple[Action, ...]
) -> int:
    """Index of the candidate that most reduces the summed relative variance of the cycles of `acts` at `loads`.

    `candidates` are points that could be measured; their `seconds` are not looked at. `loads` are (B, S) of interest.
    """
    model = fitted.model
    goals = np.concatenate([model.terms.cycles(batch, context, acts) for batch, context in loads])
    goals /= np.maximum(goals @ model.mean, 1e-12)[:, None]
    reach = goals @ model.covariance
    return int(np.argmax([_gain(candidate.vector(model.terms), fitted, reach) for candidate in candidates]))


def _gain(x: Vector, fitted: Fit, reach: Vector) -> float:
    """Variance taken off the goals by one more measurement of `x`, by the Kalman formula."""
    model = fitted.model
    own = float(x @ model.covariance @ x) + (model.noise * float(x @ model.mean)) ** 2
    return float(np.sum((reach @ x) ** 2)) / own


def choose(
    candidates: Sequence[Timing],
    count: int,
    acts: tuple[Action, ...],
    refit: Callable[[Sequence[Timing]], Fit] = fit,
) -> Iterator[tuple[int, Fit | None]]:
    """Indices of `count` candidates in the order in which to measure them, each with the fit that asked for it.

    A candidate's `seconds` count only once its index was yielded. The first is the cheapest plain step.
    """
    loads = sorted({(candidate.batch, candidate.context) for candidate in candidates})
    plain = [i for i, candidate in enumerate(candidates) if candidate.plain]
    chosen = [min(plain, key=lambda i: (candidates[i].batch, candidates[i].context))]
    yield chosen[0], None
    left = [i for i in range(len(candidates)) if i != chosen[0]]
    while left and len(chosen) < count:
        fitted = refit([candidates[i] for i in chosen])
        best = left[next_point(fitted, [candidates[i] for i in left], loads, acts)]
        left.remove(best)
        chosen.append(best)
        yield best, fitted
