"""Response lengths from when responses completed: what is published of a rollout is often only that.

While plain decoding runs, a request that ends at time t has p(t) tokens, dp/dt = 1 / T_T(B(t), S(t)), where B(t) is
what the published shares leave active on an engine: at least one, as somebody is waited for. Between published shares,
and below the least of them, the logarithm of the time is linear in the normal quantile.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import NormalDist

import numpy as np

from ..errors import UserError
from ..gate.terms import Vector
from .costs import Costs
from .workload import Counts

_NORMAL = NormalDist()


def completion_seconds(knots: Sequence[tuple[float, float]], shares: Vector) -> Vector:
    """When each of `shares` of the responses is complete, by published (share, seconds), both ascending."""
    if len(knots) < 2 or any(a[0] >= b[0] or a[1] >= b[1] for a, b in pairwise(knots)):
        raise UserError("completions: expected two or more (share, seconds), both ascending; correct them")
    where = np.array([_NORMAL.inv_cdf(share) for share in shares])
    at, logs = np.array([(_NORMAL.inv_cdf(share), math.log(seconds)) for share, seconds in knots]).T
    right = np.clip(np.searchsorted(at, where), 1, len(at) - 1)
    slope = (logs[right] - logs[right - 1]) / (at[right] - at[right - 1])
    return np.exp(logs[right - 1] + (where - at[right - 1]) * slope)


def lengths(
    knots: Sequence[tuple[float, float]],
    costs: Costs,
    requests: int,
    engines: int,
    prompt: float,
    started: float = 0.0,
    most: int = 2**31,
) -> Counts:
    """Lengths in tokens of all responses of a rollout, ascending; shape [requests · engines].

    Args:
        knots: (share of responses complete, seconds from the start), ascending.
        costs: of plain decoding.
        requests: of one engine, all there from the start.
        engines: over which responses are spread evenly.
        prompt: mean tokens of a prompt.
        started: seconds until decoding begins: the prefill.
        most: tokens at which a response is cut off.
    """
    count = requests * engines
    times = completion_seconds(knots, (np.arange(count) + 0.5) / count)
    found, tokens, before = np.zeros(count), 0.0, started
    for index, now in enumerate(times):
        batch = max(1.0, (count - index) / engines)
        step = float(costs.plain(np.array([batch]), np.array([prompt + tokens]))[0])
        tokens += max(now - before, 0.0) / step
        before = max(now, before)
        found[index] = tokens
    return np.clip(np.rint(found), 1, most).astype(np.int64)
