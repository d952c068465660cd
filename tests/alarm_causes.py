"""What alarms are for, done to a live engine; `patch.undo()` mends it, and a drafter heals at the next refit."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm import LLM

from nemo_rl_efficientrollout.gate import AutoGate, Load
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


def freeze_the_gate_at_its_worst(llm: LLM, patch: pytest.MonkeyPatch) -> None:
    """From now on it says the draft length that it believes the worst for one request."""
    gate = gate_of(llm)
    worst = gate.actions[int(gate.speeds(Load(1, 64.0)).argmin())].draft_length
    patch.setattr(gate, "choose", lambda load: worst)


def stop_learning_costs(llm: LLM, patch: pytest.MonkeyPatch) -> None:
    """The cost model is not corrected any more."""
    patch.setattr(gate_of(llm).tracker, "observe", lambda *_: None)


def slow_down(llm: LLM, patch: pytest.MonkeyPatch, factor: float = 4.0) -> None:
    """The machine is another one."""
    runner = runner_of(llm)
    execute = runner.execute_model

    def late(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        answer = execute(*args, **kwargs)
        time.sleep((factor - 1.0) * (time.perf_counter() - started))
        return answer

    patch.setattr(runner, "execute_model", late)


def gate_of(llm: LLM) -> AutoGate:
    gate = core_of(llm).scheduler.gate
    assert isinstance(gate, AutoGate)
    return gate
