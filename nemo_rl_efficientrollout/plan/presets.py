"""Response lengths fitted to what arXiv 2606.18967 v1 publishes: when responses completed under plain decoding.

Published for two models: when 50, 90, 99 % and all of 1024 responses on eight engines are complete, their mean length,
the cut at 8192 tokens, T_T of the running engine, and a roofline of forward passes on an A100. Its host time per
request was fitted to batches that share one prompt: here it is what makes the mean length that which is published.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.optimize import brentq

from ..errors import UserError, nearest
from ..gate.model_constants import ModelConstants
from ..simulate import Overhead, Roofline
from ..simulate.completions import lengths
from ..simulate.roofline import static
from ..simulate.workload import Counts
from .lengths import Lengths
from .models import MODELS, Model

ENGINES, REQUESTS, MOST = 8, 128, 8192
PROMPT = 350.0
"""Prompts are published as at most 1024 tokens; this is their mean if they are spread evenly by order of magnitude."""
_MOST_REQUEST_US = 1000.0


@dataclass(frozen=True)
class Published:
    """One model's rollout."""

    title: str
    model: str
    bandwidth: float
    kv_bytes: float
    completions: tuple[tuple[float, float], ...]
    """(share of the responses, seconds), but for the last one."""
    last_s: float
    mean: float
    """Tokens; appendix."""
    engine_step_s: float
    """T_T of the running engine."""

    @property
    def knots(self) -> tuple[tuple[float, float], ...]:
        """Half a response is later than the last of a rollout."""
        return (*self.completions, (1.0 - 0.5 / (ENGINES * REQUESTS), self.last_s))

    def costs(self, request_us: float) -> Overhead:
        """Plain decoding with this much host time for each request of a step."""
        shape = static(self.constants())
        forward = Roofline(shape, self.bandwidth, self.kv_bytes, 1.0, request_us, 0.0, 0.0)
        return Overhead(forward, self.engine_step_s - forward.cycle(1, MOST / 2, 0), 0.0)

    def constants(self) -> ModelConstants:
        constants = Model(self.model, MODELS[self.model], True).constants(1, 0.25)
        return constants.model_copy(update={"vocabulary": MODELS[self.model]["vocab_size"]})

    def responses(self, request_us: float) -> Counts:
        """All lengths of a rollout, ascending."""
        costs = self.costs(request_us)
        prefill = costs.prefill(np.full(REQUESTS // 8, PROMPT))
        return lengths(self.knots, costs, REQUESTS, ENGINES, PROMPT, prefill, MOST)


PRESETS = {
    "math-qwen2.5-7b": Published(
        "Qwen2.5-7B on SimpleRL-8k-hard", "qwen2.5-7b", 1.617462634e12, 26205,
        ((0.5, 13.0), (0.9, 22.0), (0.99, 30.0)), 88.0, 661.0, 0.01045,
    ),
    "math-llama-3.1-8b": Published(
        "Llama-3.1-8B-Instruct on SimpleRL-8k-medium", "llama-3.1-8b", 1.566304180e12, 25163,
        ((0.5, 10.0), (0.9, 16.0), (0.99, 30.0)), 123.0, 646.0, 0.01366,
    ),
}  # fmt: skip
"""By name."""


@cache
def preset(name: str) -> Lengths:
    """The lengths of that name. Raises UserError: unknown, with the nearest one named."""
    if name not in PRESETS:
        raise UserError(f"unknown lengths '{name}'{nearest(name, PRESETS)}; known presets: {', '.join(PRESETS)}")
    published = PRESETS[name]
    tokens, counts = np.unique(published.responses(request_us(published)), return_counts=True)
    origin = f"fitted to published completion times and mean of {published.title} (arXiv 2606.18967, 1024 responses)"
    return Lengths(name, origin, tokens, counts)


def request_us(published: Published) -> float:
    """Host time per request with which the mean length is the published one."""
    return float(
        brentq(lambda us: published.responses(us).mean() - published.mean, 0.0, _MOST_REQUEST_US, xtol=0.5)  # pyright: ignore[reportArgumentType]
    )
