"""What an engine counts for whoever reads its metrics, and under which names. Importing this imports no vLLM."""

from typing import NamedTuple

PREFIX = "vllm:spec_decode_efficientrollout_"
"""NeMo-RL collects what has `spec_decode` in its name."""
DRAFTED_AT = f"{PREFIX}drafted_at_"
"""Followed by a draft position, from 1."""


class Totals(NamedTuple):
    """Since the engine started, if not said otherwise. Integers, for those are what is carried."""

    engines: int = 1
    behind: int = 0
    """1 while a drafter must not draft."""
    policy_version: int = 0
    drafter_version: int = 0
    requantize_microseconds: int = 0
    """Of the last refit."""
    decode_steps: int = 0
    speculating_steps: int = 0
    gate_switches: int = 0
    gated_microseconds: int = 0
    """Of steps for which the gate made a prediction."""
    promised_microseconds: int = 0
    """The same times predicted speed-up: how long plain decoding would have taken, by prediction."""
    ideal_microseconds: int = 0
    """That over the speed-up of the action that promised most: how long the best would have taken, by prediction."""
    break_even_millionths: int = 0
    """Acceptance rate from which drafting one token pays for one request alone, by prediction now; 0 is unknown."""
    blind: int = 0
    """1 while a gate that needs a cost model has none."""
    measured_microseconds: int = 0
    """Of decode steps whose time the gate had predicted, each no further from it than a factor of `foresight.MOST`."""
    predicted_microseconds: int = 0
    """The same steps as predicted."""
