"""Is self-speculation faster? Plain and self-speculative rollouts of the same prompts, side by side.

Both run on one engine, so they share weights, memory and kernels: for a plain rollout the gate is pinned to
draft length 0, where nothing of the drafter runs. Pairs alternate in ABBA order, so a machine that slowly
becomes slower or faster favours neither side. Responses are sampled anew each time, so their lengths differ a
little; the spread over the pairs shows how much that and the machine matter.
"""

from statistics import median
from typing import Any

from .engine import Rollout, RolloutEngine

PAIRS = 4


def compare(engine: RolloutEngine, prompts: list[list[int]], pairs: int = PAIRS) -> dict[str, Any]:
    """Ratios of rollout time, self-speculative / plain, one per pair; below 1 means faster.

    Returns:
        `median`, `min`, `max` of the ratios, `pairs`, and `seconds` and `tokens` of each rollout by side.
    """
    own = engine.settings.gate.model_dump(exclude_none=True)
    gates: dict[str, dict[str, Any]] = {"plain": {"mode": "off"}, "speculative": own}

    def measure(side: str) -> Rollout:
        engine.set_gate(gates[side])
        return engine.rollout(prompts)

    measured: dict[str, list[Rollout]] = {side: [] for side in gates}
    try:
        for side in gates:  # first calls are slower: let both sides have theirs
            measure(side)
        for pair in range(pairs):
            for side in sorted(gates, reverse=pair % 2 == 1):
                measured[side].append(measure(side))
    finally:
        engine.set_gate(own)
    ratios = [
        speculative.seconds / plain.seconds
        for speculative, plain in zip(measured["speculative"], measured["plain"], strict=True)
    ]
    return {
        "median": median(ratios),
        "min": min(ratios),
        "max": max(ratios),
        "pairs": pairs,
        "seconds": {side: [r.seconds for r in rollouts] for side, rollouts in measured.items()},
        "tokens": {side: [r.tokens for r in rollouts] for side, rollouts in measured.items()},
    }
