"""What follows from a run's own metrics: time per generated token, tokens per second, acceptance where drafts were."""

from dataclasses import replace
from math import prod
from typing import Any

from .metrics import (
    ACCEPTANCE_LENGTH,
    ACCEPTANCE_RATE,
    BATCHES,
    DRAFTS,
    GENERATION,
    MEAN_TOKENS,
    PER_TOKEN,
    TOKENS_PER_SECOND,
)
from .run import Run, Series

RESPONSES = (("grpo.num_prompts_per_step", "grpo.num_generations_per_prompt"), ("prompts_per_step", "group"))
"""Settings whose product is the number of responses per step: of NeMo-RL, and of this project's job."""
MOST_RESPONSES = 10**6
"""What each of these can be."""


def derive(a: Run, b: Run) -> tuple[Run, Run, bool]:
    """Both runs with derived metrics.

    Returns:
        a, b, and whether the number of responses per step was known of both. Where it was not, the time per token is
        that per token of the mean response: its ratio holds if both runs sample equally many responses.
    """
    counts = responses(a), responses(b)
    known = None not in counts
    return derived(a, counts[0] if known else None), derived(b, counts[1] if known else None), known


def responses(run: Run) -> float | None:
    """Responses per rollout batch by the run's settings, or None."""
    for prompts, group in RESPONSES:
        # Dynamic sampling may draw larger batches, and several in one step.
        factors: list[Any] = [run.config.get(key) for key in (prompts, group)]
        factors.append(run.config.get("grpo.batch_multiplier") or 1)
        if all(isinstance(value, int | float) and 1 <= value <= MOST_RESPONSES for value in factors):
            return float(prod(factors))
    return None


def derived(run: Run, count: float | None) -> Run:
    """The run with what follows from its metrics; `count` is the number of responses per batch, None if unknown."""
    series = dict(run.series)
    drafts = series.get(DRAFTS, {})
    for name in (ACCEPTANCE_RATE, ACCEPTANCE_LENGTH):
        # Where nothing is drafted NeMo-RL logs a rate of 0 and a length of 1, which were not measured.
        kept = {step: value for step, value in series.get(name, {}).items() if drafts.get(step) != 0}
        if kept:
            series[name] = kept
        else:
            series.pop(name, None)
    tokens, seconds = generated(run, count or 1.0), series.get(GENERATION, {})
    both = [step for step in seconds if tokens.get(step, 0) > 0 and seconds[step] > 0]
    if both:
        series[PER_TOKEN] = {step: seconds[step] / tokens[step] for step in both}
    if both and count is not None:
        series[TOKENS_PER_SECOND] = {step: tokens[step] / seconds[step] for step in both}
    return replace(run, series=series)


def generated(run: Run, count: float) -> Series:
    """Tokens generated in each step. With dynamic sampling the mean length is that of the step's last batch."""
    batches = run.series.get(BATCHES, {})
    return {step: mean * count * batches.get(step, 1.0) for step, mean in run.series.get(MEAN_TOKENS, {}).items()}
