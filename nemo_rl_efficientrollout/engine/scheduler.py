"""The scheduler's part: ask the gate for γ before every step, tell it afterwards what came of it."""

from typing import TYPE_CHECKING, Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.spec_decode.metrics import SpecDecodingStats

from ..clock import Clock
from ..config import KEY, GateSettings, read_gate, read_settings
from ..gate import AutoGate, Gate, Load, Prediction, Step, make_gate
from ..gate.evidence import Evidence
from . import workers
from .ledger import Ledger
from .metrics import EVERY, attach
from .plugin import require_active
from .seeding import Seed, find_seed
from .totals import Totals
from .workers import Drafters


class _AskGate:
    """Stands where vLLM keeps its table of draft lengths by batch size, and asks the gate instead."""

    def __init__(self, scheduler: "DraftLengths") -> None:
        self._scheduler = scheduler

    def __getitem__(self, scheduled_requests: int) -> int:
        return self._scheduler.draft_length(scheduled_requests)


class DraftLengths(Scheduler if TYPE_CHECKING else object):
    """Mixin over vLLM's schedulers: γ is chosen at every step."""

    def __init__(self, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        require_active()
        super().__init__(vllm_config, *args, **kwargs)
        settings = read_settings(vllm_config.additional_config[KEY])
        self._settings = settings
        self._workers = workers.take(vllm_config)
        self._drafters: Drafters | None = None  # unknown: the workers are asked before the next step
        self._seed: Seed | None = None
        self._auto: AutoGate | None = None
        self._clock = Clock()
        self._last_step_ended = 0.0
        self._prediction: Prediction | None = None
        self._busy = False  # since then
        self.gate = self._make_gate(settings.gate)
        self.ledger = Ledger(self.num_spec_tokens)
        self.evidence = Evidence() if settings.refit.refresh == "on_evidence" else None
        self.dynamic_sd_lookup = _AskGate(self)  # type: ignore[assignment]

    def set_gate(self, gate: Any) -> None:
        """Replace the gate while the engine runs. Raises UserError."""
        self.gate = self._make_gate(read_gate(gate, self.num_spec_tokens))

    def _make_gate(self, settings: GateSettings) -> Gate:
        if settings.mode != "auto":
            return make_gate(settings, self.num_spec_tokens)
        if self._seed is None or self._seed.calibration != settings.calibration:
            wanted = self._settings.model_copy(update={"gate": settings})
            self._seed = find_seed(wanted, self.vllm_config, self._workers.detect)
            self._auto = None
        if self._auto is None:
            self._auto = self._seed.gate(self.num_spec_tokens)
        return self._auto  # one that was set aside goes on with all that it learned

    def draft_length(self, scheduled_requests: int) -> int:
        """γ that this step drafts for the next one."""
        self._prediction = None
        if scheduled_requests > self._settings.draft_length.max_requests:
            return 0
        load = self.load() if self.gate.learns else Load(scheduled_requests)
        length = self.gate.choose(load)
        if length and not self.may_draft():
            length = 0
        self._prediction = self.gate.predict(load, length)
        return length

    def may_draft(self) -> bool:
        """Whether every worker's drafter is fit to draft."""
        return self._ask_drafters().fit

    def _ask_drafters(self) -> Drafters:
        if self._drafters is None:
            self._drafters = self._workers.drafters()
        return self._drafters

    def workers_changed(self) -> None:
        """Something was asked of the workers: their drafter may be fit now, or no longer. No step took that time."""
        self._drafters = None
        self._busy = False

    def refit(self) -> None:
        """The policy and its drafter have new weights."""
        self.gate.refit()
        if self._auto is not None and self._auto is not self.gate:
            self._auto.refit()

    def describe_gate(self) -> dict[str, Any]:
        """What the gate does and why, as a plain dict."""
        described: dict[str, Any] = {"gate": type(self.gate).__name__}
        if isinstance(self.gate, AutoGate) and self._seed is not None:
            described |= {"seed": self._seed.origin} | self.gate.describe()
        return described

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        self._ask_drafters()
        started = self._clock()
        output = super().schedule(*args, **kwargs)
        output.efficientrollout_started = started  # type: ignore[attr-defined]
        return output

    def update_from_output(self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput) -> Any:
        now = self._clock()
        if scheduler_output.num_scheduled_tokens:
            started = scheduler_output.efficientrollout_started  # type: ignore[attr-defined]
            # The host's work between two steps is part of the price of a step; asynchronous ones overlap besides.
            if self._busy or started < self._last_step_ended:
                started = self._last_step_ended
            self._last_step_ended = now
            step = self._read_step(scheduler_output, model_runner_output, now - started)
            if self.gate.learns:
                self.gate.observe(step)
            self.ledger.record(step, now, self._prediction)
            if self.evidence is not None and step.drafted:
                self.evidence.observe(step.drafted, step.accepted)
        answer = super().update_from_output(scheduler_output, model_runner_output)
        self._busy = self.has_unfinished_requests()
        return answer

    def make_stats(self, spec_decoding_stats: SpecDecodingStats | None = None, *args: Any, **kwargs: Any) -> Any:
        due = self.ledger.decode_steps % EVERY == 1 or not self.running
        if due and self.log_stats:
            if spec_decoding_stats is None:
                spec_decoding_stats = SpecDecodingStats.new(self.num_spec_tokens)
            attach(spec_decoding_stats, self._totals())
        return super().make_stats(spec_decoding_stats, *args, **kwargs)

    def _totals(self) -> Totals:
        drafters, ledger = self._ask_drafters(), self.ledger
        return Totals(
            behind=int(not drafters.fit),
            policy_version=drafters.policy_version,
            drafter_version=drafters.drafter_version,
            requantize_microseconds=round(1e6 * drafters.requantize_seconds),
            decode_steps=ledger.decode_steps,
            speculating_steps=ledger.speculating_steps,
            gate_switches=self.gate.switches,
            gated_microseconds=round(1e6 * ledger.gated_seconds),
            promised_microseconds=round(1e6 * ledger.promised_seconds),
            ideal_microseconds=round(1e6 * ledger.ideal_seconds),
            break_even_millionths=round(1e6 * (self.gate.break_even() or 0.0)),
            blind=int(self.gate.blind),
            measured_microseconds=round(1e6 * self.gate.foresight.measured),
            predicted_microseconds=round(1e6 * self.gate.foresight.predicted),
        )

    def load(self) -> Load:
        """Requests that decode, and the mean of their context lengths."""
        contexts = [request.num_tokens for request in self.running if not request.is_prefill_chunk]
        return Load(len(contexts), sum(contexts) / max(len(contexts), 1))

    def _read_step(self, output: SchedulerOutput, result: ModelRunnerOutput, seconds: float) -> Step:
        known = self.requests  # without those that ended in flight
        names = output.num_scheduled_tokens
        contexts = {name: known[name].num_tokens for name in names if name in known} if self.gate.learns else {}
        load = Load(len(names), sum(contexts.values()) / max(len(contexts), 1))
        drafts = output.scheduled_spec_decode_tokens
        drafted, accepted, drafting, scheduled = [], [], [], len(names)
        for request, tokens in drafts.items():
            scheduled += len(tokens)
            sampled = result.sampled_token_ids[result.req_id_to_index[request]]
            if sampled and request in known:  # empty when the request was discarded in flight
                drafted.append(len(tokens))
                accepted.append(len(sampled) - 1)
                drafting.append(contexts.get(request, 0))
        return Step(
            load,
            verified=max(map(len, drafts.values()), default=0),
            asked=output.num_spec_tokens_to_schedule,
            seconds=seconds,
            decode_only=output.total_num_scheduled_tokens == scheduled and not output.preempted_req_ids,
            drafted=drafted,
            accepted=accepted,
            contexts=drafting,
        )


class DraftLengthScheduler(DraftLengths, Scheduler):
    """One step is scheduled when the one before it is done."""


class AsyncDraftLengthScheduler(DraftLengths, AsyncScheduler):
    """The next step is scheduled while the present one runs."""


def new_scheduler(vllm_config: Any, *args: Any, **kwargs: Any) -> DraftLengths:
    """What `scheduler_cls` names: whether scheduling is asynchronous is known only to the finished configuration."""
    kind = AsyncDraftLengthScheduler if vllm_config.scheduler_config.async_scheduling else DraftLengthScheduler
    return kind(vllm_config, *args, **kwargs)
