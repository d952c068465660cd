"""What alarms are for, done to a live engine; `patch.undo()` mends it, and a drafter heals at the next refit."""

import time
from functools import reduce
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm import LLM

from nemo_rl_efficientrollout.gate import AutoGate
from tests.engines import core_of, runner_of, worker_state


def forget_the_drafter(llm: LLM, patch: pytest.MonkeyPatch) -> None:
    """From now on refits bring the policy alone."""
    patch.setattr(worker_state(llm), "_complete", lambda: None)


def freeze_the_drafter(llm: LLM, patch: pytest.MonkeyPatch) -> None:
    """The drafter is that of a policy of noise, and refits call it fresh without touching it."""
    state = worker_state(llm)
    noise = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for layer in state.twin.quantized:
            weight = layer.source.weight
            random = torch.randn(weight.shape, generator=noise).to(weight) * weight.std()
            layer.method.refill(SimpleNamespace(weight=random))
    patch.setattr(state._requantizer, "quantize", lambda layers: None)
    patch.setattr(state._requantizer, "finish", list)


def slow_down_drafts(llm: LLM, patch: pytest.MonkeyPatch) -> None:
    """They take ten times as long."""
    slow_down(llm, patch, "drafter.propose", 10.0)


def freeze_the_gate_at_its_longest(llm: LLM, patch: pytest.MonkeyPatch) -> None:
    """From now on it says the longest draft length, whatever it knows of its cost."""
    gate = gate_of(llm)
    longest = max(action.draft_length for action in gate.actions)
    patch.setattr(gate, "choose", lambda load: longest)


def stop_learning_costs(llm: LLM, patch: pytest.MonkeyPatch) -> None:
    """The cost model is not corrected any more."""
    patch.setattr(gate_of(llm).tracker, "observe", lambda *_: None)


def slow_down(llm: LLM, patch: pytest.MonkeyPatch, what: str = "execute_model", factor: float = 4.0) -> None:
    """The machine is another one: for all that the runner does, or for one part of it, dotted."""
    *path, name = what.split(".")
    owner = reduce(getattr, path, runner_of(llm))
    original = getattr(owner, name)

    def late(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        answer = original(*args, **kwargs)
        time.sleep((factor - 1.0) * (time.perf_counter() - started))
        return answer

    patch.setattr(owner, name, late)


def gate_of(llm: LLM) -> AutoGate:
    gate = core_of(llm).scheduler.gate
    assert isinstance(gate, AutoGate)
    return gate
