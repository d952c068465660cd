"""The scheduler's part: ask the gate for γ before every step, tell it afterwards what came of it."""

import time
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.outputs import ModelRunnerOutput

from ..config import KEY, read_gate, read_settings
from ..gate import Gate, Step, make_gate
from .ledger import Ledger
from .plugin import require_active


class _AskGate:
    """Stands where vLLM keeps its table of draft lengths by batch size, and asks the gate instead."""

    def __init__(self, scheduler: "DraftLengthScheduler") -> None:
        self._scheduler = scheduler

    def __getitem__(self, scheduled_requests: int) -> int:
        return self._scheduler.gate.choose(scheduled_requests)


class DraftLengthScheduler(Scheduler):
    """vLLM's scheduler with γ chosen at every step."""

    gate: Gate

    def __init__(self, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        require_active()
        super().__init__(vllm_config, *args, **kwargs)
        settings = read_settings(vllm_config.additional_config[KEY])
        self.gate = make_gate(settings.gate, self.num_spec_tokens)
        self.ledger = Ledger(self.num_spec_tokens)
        self.dynamic_sd_lookup = _AskGate(self)  # type: ignore[assignment]
        self._schedule_started = 0.0

    def set_gate(self, gate: Any) -> None:
        """Replace the gate while the engine runs. Raises SettingsError."""
        self.gate = make_gate(read_gate(gate, self.num_spec_tokens), self.num_spec_tokens)

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        self._schedule_started = time.perf_counter()
        return super().schedule(*args, **kwargs)

    def update_from_output(self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput) -> Any:
        now = time.perf_counter()
        if scheduler_output.num_scheduled_tokens:
            step = _read_step(scheduler_output, model_runner_output, now - self._schedule_started)
            self.gate.observe(step)
            self.ledger.record(step, now)
        return super().update_from_output(scheduler_output, model_runner_output)


def _read_step(output: SchedulerOutput, result: ModelRunnerOutput, seconds: float) -> Step:
    active = len(output.num_scheduled_tokens)
    asked = output.num_spec_tokens_to_schedule
    drafts = output.scheduled_spec_decode_tokens
    if not drafts:
        decode_only = output.total_num_scheduled_tokens == active
        return Step(active, 0, asked, seconds, decode_only)
    drafted, accepted, scheduled = [], [], active
    for request, tokens in drafts.items():
        scheduled += len(tokens)
        sampled = result.sampled_token_ids[result.req_id_to_index[request]]
        if sampled:  # empty when the request was discarded in flight
            drafted.append(len(tokens))
            accepted.append(len(sampled) - 1)
    decode_only = output.total_num_scheduled_tokens == scheduled
    verified = max(map(len, drafts.values()))
    return Step(active, verified, asked, seconds, decode_only, drafted, accepted)
