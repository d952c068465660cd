"""Prompt and response lengths of one GRPO rollout of the paper's shape.

Published for Qwen2.5-7B (arXiv 2606.18967): when responses complete (half at 13 s, 90 % at 22 s, 99 % at 30 s, the last
of 1024 at about 88 s), their mean length (620 to 660 tokens), their most (8192), and a plain step of one request
(10.45 ms). How long responses are is not published. What is assumed to get from seconds to tokens:

* all 128 requests of an engine start together, so that at any time all that still decode are equally long;
* a step takes 10.45 ms plus a part that grows with the requests still active, dL/dt = 1 / (10.45 ms + k·B(t)), where
  B(t) is the share that the published times leave active. k is fitted, so that the mean length is 640;
* between the published quantiles, and below the median, the logarithm of the time is linear in the normal quantile.

With that the longest of 1024 has about 7500 tokens, just below the limit, although nothing was fitted to it: after the
first 30 s a request or two decode alone, some 5500 steps.

A training step samples 1024 responses on 8 engines and waits for the slowest. The lengths given here are those of the
engine that draws the longest response. Prompts, whose lengths are published only as at most 1024, are assumed to be
log-uniform between 64 and that; each is answered 8 times.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

TIMES = ((0.5, 13.0), (0.9, 22.0), (0.99, 30.0), (1.0 - 0.5 / 1024, 88.0))
"""Share of responses that are complete, and the seconds from the rollout's start."""
MEAN, MOST = 640.0, 8192
PLAIN_STEP_S = 0.01045
ENGINES, REQUESTS, SAMPLES = 8, 128, 8
LEAST_PROMPT, MOST_PROMPT = 64, 1024
_FINE = 4096
"""Responses by which the distribution is drawn: enough for its mean."""
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Request:
    """One response to be sampled."""

    prompt: int
    """Number of its prompt; the samples of one prompt share it."""
    prompt_tokens: int
    response_tokens: int


def completion_seconds(share: float) -> float:
    """When this share of the responses is complete."""
    where = _NORMAL.inv_cdf(share)
    knots = [(_NORMAL.inv_cdf(q), math.log(seconds)) for q, seconds in TIMES]
    right = next((i for i in range(1, len(knots)) if where <= knots[i][0]), len(knots) - 1)
    (z0, t0), (z1, t1) = knots[right - 1], knots[right]
    return math.exp(t0 + (where - z0) * (t1 - t0) / (z1 - z0))


def response_lengths(count: int = _FINE) -> list[float]:
    """Lengths at `count` even shares of all responses, ascending."""
    fine = _lengths(_times(_FINE), _step_growth())
    places = [(index + 0.5) / count * _FINE - 0.5 for index in range(count)]
    return [_between(fine, place) for place in places]


def rollout(seed: int, requests: int = REQUESTS, shrink: float = 1.0) -> list[Request]:
    """The requests of the engine that the step waits for; `shrink` divides all lengths, for a trial run."""
    chance = random.Random(seed)
    responses = response_lengths(requests * ENGINES)
    chance.shuffle(responses)
    engines = [responses[start : start + requests] for start in range(0, len(responses), requests)]
    slowest = max(engines, key=max)
    prompts = -(-requests // SAMPLES)
    widths = [LEAST_PROMPT * (MOST_PROMPT / LEAST_PROMPT) ** chance.random() for _ in range(prompts)]
    return [
        Request(i // SAMPLES, max(1, round(widths[i // SAMPLES] / shrink)), max(1, round(length / shrink)))
        for i, length in enumerate(slowest)
    ]


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share lies."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def _between(values: Sequence[float], place: float) -> float:
    low = min(max(int(place), 0), len(values) - 2)
    return values[low] + (place - low) * (values[low + 1] - values[low])


@cache
def _times(count: int) -> tuple[float, ...]:
    return tuple(completion_seconds((index + 0.5) / count) for index in range(count))


def _lengths(times: Sequence[float], growth: float) -> list[float]:
    """Tokens that a request has at each of the times at which one of them completes."""
    lengths, tokens, before = [], 0.0, 0.0
    for index, now in enumerate(times):
        active = 1.0 - index / len(times)
        tokens += (now - before) / (PLAIN_STEP_S * (1.0 + growth * active))
        before = now
        lengths.append(min(tokens, float(MOST)))
    return lengths


@cache
def _step_growth() -> float:
    """How much longer a step of a full batch takes than one of a single request, by bisection on the mean length."""
    low, high = 0.0, 20.0
    for _ in range(40):
        middle = (low + high) / 2
        lengths = _lengths(_times(_FINE), middle)
        low, high = (middle, high) if sum(lengths) / len(lengths) > MEAN else (low, middle)
    return (low + high) / 2
