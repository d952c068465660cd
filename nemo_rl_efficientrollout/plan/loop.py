"""A step of the training loop around a rollout."""

from collections.abc import Mapping

from ..simulate import Phases, train
from .assumptions import MACHINE
from .scenario import Scenario
from .weights import forward

_STEPS = 8
"""With a lag it takes a few until they repeat."""
_TRAINING, _LOGPROBS = 3.0, 2.0
"""Forward passes that they cost: one with its backward pass; one of the policy, one of the reference model."""


def step_seconds(scenario: Scenario, rollout: float, drafting: bool, normal: Mapping[str, float]) -> float:
    """Mean seconds from training step to training step.

    Args:
        scenario: how training and generation share the GPUs, and how much there is to learn from.
        rollout: seconds of one.
        drafting: whether a drafter is made at each refit.
        normal: standard normal numbers of what is assumed.
    """
    value = {name: spread.at(normal[name]) for name, spread in MACHINE.items()}
    policy = forward(scenario.model.shape(scenario.tensor_parallel), scenario.model.routed)
    weights = policy.bytes + policy.expert_bytes
    requantize = 0.0
    if drafting:
        requantize = value["requantize_reads"] * weights / (value["bandwidth"] * scenario.gpu.bytes_per_s)
    if scenario.rest_seconds is not None:
        phases = Phases(0.0, scenario.rest_seconds, requantize)
    else:
        gpus = (scenario.training_gpus or scenario.gpus) if scenario.lag else scenario.gpus
        flops = policy.flops * scenario.tensor_parallel * scenario.tokens
        passed = flops / (value["training"] * scenario.gpu.bf16_flops * gpus)
        phases = Phases(_LOGPROBS * passed, _TRAINING * passed, weights / value["refit_bytes_per_s"] + requantize)
    return train([rollout] * _STEPS, phases, scenario.lag).step_seconds
