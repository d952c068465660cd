"""The paper's rollouts, simulated from what it publishes: do the predicted savings agree with the measured ones?

Nothing is fitted to the measured reductions. Response lengths follow from when responses completed under plain decoding
(simulate/completions.py) and the cost model. The constants describe forward passes only, so every model is simulated
with three kinds of times:

* forward: the published constants as they are;
* head: every step, of target and drafter, reads the 16-bit lm_head besides;
* engine: every step, of target and drafter, takes as much more as the published T_T of the running engine exceeds the
  forward time of one request. That a drafter step leaves out as much as a target step is an assumption.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from nemo_rl_efficientrollout.gate import AutoGate
from nemo_rl_efficientrollout.simulate import (
    AcceptanceCurve,
    BatchTable,
    Best,
    Costs,
    Engine,
    Fixed,
    Limits,
    OneWayToggle,
    Overhead,
    Policy,
    PolicyGate,
    Workload,
    at_once,
    cluster,
    replay,
)
from nemo_rl_efficientrollout.simulate.completions import lengths

from .published_models import (
    ENGINES,
    MEAN_RESPONSE,
    MODELS,
    MOST_PROMPT,
    MOST_RESPONSE,
    REQUESTS,
    SAMPLES,
    PublishedModel,
    Result,
)
from .record import Parser, Progress, Record, at_least, check_writable

LEAST_PROMPT = 64
"""Prompts are published only as at most 1024 tokens: taken as log-uniform from here to there."""
DRAFT_LENGTHS = tuple(range(12))
"""On offer where γ is chosen: up to the ladder's top."""
TABLE_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
RUNGS = (5, 7, 9, 11)
MOST_DRAFTED_FOR = 64
"""Largest batch for which this project drafts by default."""
GOAL = 0.03
KINDS = ("forward", "head", "engine")
_LEAST_EXTRA_S, _MOST_EXTRA_S = -0.005, 0.03


@dataclass
class Setting:
    """One model with one kind of times: the same rollouts for every policy."""

    model: PublishedModel
    kind: str
    lengths_of: PublishedModel
    rollouts: int
    costs: Costs = field(init=False)
    works: list[Workload] = field(init=False)
    plain: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.costs = _costs(self.model, self.kind)
        self.works = _workloads(self.lengths_of, _costs(self.lengths_of, self.kind), self.rollouts)
        self.plain = self.seconds(self.model.reference.alpha, lambda _: Fixed(0), drafting=False)

    def seconds(
        self,
        alpha: float,
        policy: Callable[[AcceptanceCurve], Policy],
        costs: Costs | None = None,
        drafting: bool = True,
    ) -> list[float]:
        """Expected makespan of each rollout under one policy."""
        acceptance = AcceptanceCurve.constant(alpha, max(DRAFT_LENGTHS))
        limits = self.limits(drafting)

        def one(part: Workload, own: Costs) -> Any:
            return replay(part, own, acceptance, policy(acceptance), limits)

        return [cluster.run(work, ENGINES, costs or self.costs, one).longest for work in self.works]

    def limits(self, drafting: bool) -> Limits:
        """Of one engine."""
        return Limits(REQUESTS, self.model.kv_tokens(drafting), lookahead=drafting * max(DRAFT_LENGTHS))

    def always_on(self, costs: Costs | None = None) -> list[float]:
        """The paper's best fixed γ."""
        result = self.model.always_on
        return self.seconds(result.alpha, lambda _: Fixed(int(result.draft_length)), costs)

    def reference(self, costs: Costs | None = None) -> list[float]:
        """The toggle at the two rungs around the published mean γ, weighted to have that mean."""
        result = self.model.reference
        low = max(rung for rung in RUNGS if rung <= result.draft_length)
        high = min(rung for rung in RUNGS if rung >= result.draft_length)
        share = (result.draft_length - low) / (high - low) if high > low else 0.0
        by_rung = [self._toggled(rung, costs) for rung in (low, high)]
        return [(1.0 - share) * a + share * b for a, b in zip(*by_rung, strict=True)]

    def _toggled(self, rung: int, costs: Costs | None) -> list[float]:
        tau = (1.0 - self.model.reference.alpha ** (rung + 1)) / (1.0 - self.model.reference.alpha)
        return self.seconds(self.model.reference.alpha, lambda _: OneWayToggle(self.model.roofline, rung, tau), costs)

    def table(self) -> list[float]:
        """The best table by batch size for these costs and this acceptance."""
        context = float(np.mean([work.prompt.mean() + 0.5 * work.response.mean() for work in self.works]))
        return self.seconds(
            self.model.reference.alpha,
            lambda acceptance: BatchTable.best(self.costs, acceptance, DRAFT_LENGTHS, TABLE_SIZES, context),
        )

    def oracle(self) -> list[float]:
        """The best γ at every token."""
        return self.seconds(self.model.reference.alpha, lambda acceptance: Best(self.costs, acceptance, DRAFT_LENGTHS))

    def gated(self, count: int) -> list[float]:
        """This project's gate, uncalibrated, engines and gates going on from rollout to rollout."""
        acceptance = AcceptanceCurve.constant(self.model.reference.alpha, max(DRAFT_LENGTHS))
        gates = [AutoGate(max(DRAFT_LENGTHS)) for _ in range(ENGINES)]
        limits = self.limits(drafting=True)
        engines = [
            Engine(self.costs, acceptance, gate, limits, MOST_DRAFTED_FOR, noise=0.02, seed=seed)
            for seed, gate in enumerate(gates)
        ]
        found = []
        for work in self.works[:count]:
            parts = cluster.split(work, ENGINES)
            found.append(max(engine.rollout(part).seconds for engine, part in zip(engines, parts, strict=True)))
            for gate in gates:
                gate.refit()
        return found

    def sampled_always_on(self) -> float:
        """Always-on sampled step by step, over expected: what requests that drift apart cost."""
        result = self.model.always_on
        acceptance = AcceptanceCurve.constant(result.alpha, max(DRAFT_LENGTHS))
        gate = PolicyGate(Fixed(int(result.draft_length)))
        engine = Engine(self.costs, acceptance, gate, self.limits(drafting=True))
        sampled = max(engine.rollout(part).seconds for part in cluster.split(self.works[0], ENGINES))
        return sampled / self.always_on()[0]

    def implied_extra(self, seconds: Callable[[Costs], list[float]], reduction: float) -> float:
        """Seconds by which each drafter step would have to be longer for the measured reduction; NaN if none does."""
        low, high = _LEAST_EXTRA_S, _MOST_EXTRA_S
        for _ in range(20):
            middle = 0.5 * (low + high)
            saved = _reduction(seconds(Overhead(self.costs, 0.0, middle)), self.plain)
            low, high = (middle, high) if saved > reduction else (low, middle)
        inside = _MOST_EXTRA_S - high > 1e-4 and low - _LEAST_EXTRA_S > 1e-4
        return high if inside else math.nan


def main(arguments: list[str] | None = None) -> int:
    """Simulate, print, write."""
    parser = Parser(prog="python -m benchmarks.simulate_paper", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rollouts", type=at_least(1), default=5, help="of each setting; default: 5")
    parser.add_argument("--gate-rollouts", type=at_least(1), default=2, help="under this project's gate; default: 2")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record here")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table here")
    parser.add_argument("--quick", action="store_true", help="one model, one kind of times, one rollout")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    options = parser.parse_args(arguments)
    check_writable(parser, options.json, options.markdown)
    if options.quick:
        options.rollouts = options.gate_rollouts = 1
    record = Record(
        "simulate_paper",
        "Simulated rollouts of arXiv 2606.18967: time against plain decoding",
        {"rollouts": options.rollouts, "gate_rollouts": options.gate_rollouts, "quick": options.quick},
        ("model", "times", "policy", "rollout s", "saved", "measured", "off by", "step saved", "measured"),
    )
    progress = Progress(options.quiet)
    for model in MODELS[:1] if options.quick else MODELS:
        for kind in KINDS[:1] if options.quick else KINDS:
            with progress.phase(f"{model.name}, {kind}"):
                _add(record, Setting(model, kind, _lengths_of(model), options.rollouts), options)
    record.notes += _notes(record)
    # Not closed, which would say how busy the machine was: nothing is timed here.
    record.show()
    record.write(options.json, options.markdown)
    return 0


def _add(record: Record, setting: Setting, options: Any) -> None:
    model = setting.model
    always_on, reference = setting.always_on(), setting.reference()
    own = setting.gated(min(options.gate_rollouts, options.rollouts)) if setting.kind != "head" else []
    ways: list[tuple[str, list[float], Result | None]] = [
        ("plain", setting.plain, None),
        (f"always γ = {model.always_on.draft_length:g}", always_on, model.always_on),
        ("reference", reference, model.reference),
        ("best batch table", setting.table(), None),
        *([("this gate", own, None)] if own else []),
        ("oracle", setting.oracle(), None),
    ]
    for name, seconds, measured in ways:
        _row(record, setting, name, seconds, measured)
    result = {
        "model": model.name,
        "times": setting.kind,
        "policy": "diagnosis",
        "mean_response": fmean(float(work.response.mean()) for work in setting.works),
        "longest_response": max(int(work.response.max()) for work in setting.works),
        "sampled_over_expected": setting.sampled_always_on(),
        "implied_drafter_step_extra_ms": {
            "always_on": _milliseconds(setting.implied_extra(setting.always_on, model.always_on.reduction)),
            "reference": _milliseconds(setting.implied_extra(setting.reference, model.reference.reduction)),
        },
    }
    record.results.append(result)


def _row(record: Record, setting: Setting, name: str, seconds: list[float], measured: Result | None) -> None:
    model = setting.model
    saved = _reduction(seconds, setting.plain)
    # The rollout's share of a step, all that is beside it, and re-quantization are the published ones.
    step_saved = (saved * model.plain_s - model.preparation_s) / model.step_s
    off = saved - measured.reduction if measured else None
    record.rows.append(
        (
            model.name,
            setting.kind,
            name,
            f"{fmean(seconds):.1f}",
            f"{100 * saved:.1f} %" if name != "plain" else "",
            f"{100 * measured.reduction:.1f} %" if measured else f"{model.plain_s:.1f} s" if name == "plain" else "",
            f"{100 * off:+.1f}" if off is not None else "",
            f"{100 * step_saved:.1f} %" if name != "plain" else "",
            f"{100 * measured.step_reduction:.1f} %" if measured else "",
        )
    )
    record.results.append(
        {
            "model": model.name,
            "times": setting.kind,
            "policy": name,
            "rollout_s": seconds,
            "plain_s": setting.plain[: len(seconds)],
            "saved": saved,
            "measured": measured.reduction if measured else None,
            "off_by": off,
            "within_goal": abs(off) <= GOAL if off is not None else None,
            "step_saved": step_saved,
        }
    )


def _notes(record: Record) -> list[str]:
    judged = [result for result in record.results if result.get("within_goal") is not None]
    notes = [
        f"within {100 * GOAL:.0f} points of the measured reduction: "
        + ", ".join(
            f"{sum(r['within_goal'] for r in judged if r['times'] == kind)} of"
            f" {sum(r['times'] == kind for r in judged)} with {kind} times"
            for kind in dict.fromkeys(r["times"] for r in judged)
        ),
        "forward: published constants as they are; head: every step reads the lm_head besides; engine: every step takes"
        " as much more as the published T_T of the running engine",
        "step saved: the published time beside the rollout is kept, re-quantization as published is added for all"
        " that draft",
    ]
    for result in record.results:
        if result["policy"] != "diagnosis":
            continue
        extra = result["implied_drafter_step_extra_ms"]
        notes.append(
            f"{result['model']}, {result['times']}: mean response {result['mean_response']:.0f} tokens (published"
            f" {MEAN_RESPONSE[0]:.0f} to {MEAN_RESPONSE[1]:.0f}), longest {result['longest_response']}; sampled step by"
            f" step, always-on takes {result['sampled_over_expected']:.3f} of the expected time; the measured"
            f" reductions would need drafter steps longer by {_ms(extra['always_on'])} (always-on) and"
            f" {_ms(extra['reference'])} (reference)"
        )
    notes += [
        f"not published, so assumed: prompts log-uniform from {LEAST_PROMPT} to {MOST_PROMPT} tokens; acceptance the"
        " same at every position and context; completions of Qwen2.5-14B, for which those of Qwen2.5-7B stand in",
        "reference: its toggle at the two rungs around the published mean γ, weighted to have that mean; its τ known",
        "this gate: uncalibrated, γ up to 11, drafting up to 64 requests, step times with 2 % noise, sampled step by"
        " step; the others are expected times",
    ]
    return notes


def _costs(model: PublishedModel, kind: str) -> Costs:
    extra = {"forward": 0.0, "head": model.head_s, "engine": model.engine_s}[kind]
    return Overhead(model.roofline, extra, extra)


def _lengths_of(model: PublishedModel) -> PublishedModel:
    """The model whose completions are published, of the same family and data where its own are not."""
    return model if model.completions else MODELS[0]


def _workloads(model: PublishedModel, costs: Costs, count: int) -> list[Workload]:
    """Rollouts with the same response lengths, dealt to the engines by chance."""
    assert model.completions is not None
    chance = np.random.default_rng(0)
    prompts = ENGINES * REQUESTS // SAMPLES
    widths = [np.exp(chance.uniform(math.log(LEAST_PROMPT), math.log(MOST_PROMPT), prompts)) for _ in range(count)]
    mean = float(np.mean(widths))
    prefill = costs.prefill(np.full(REQUESTS // SAMPLES, mean))
    responses = lengths(model.completions, costs, REQUESTS, ENGINES, mean, prefill, MOST_RESPONSE)
    return [
        at_once(np.repeat(np.rint(width).astype(int), SAMPLES), chance.permutation(responses), SAMPLES)
        for width in widths
    ]


def _reduction(seconds: list[float], plain: list[float]) -> float:
    """Of the mean time, over the rollouts that both had."""
    return 1.0 - sum(seconds) / sum(plain[: len(seconds)])


def _milliseconds(seconds: float) -> float | None:
    return None if math.isnan(seconds) else 1e3 * seconds


def _ms(value: float | None) -> str:
    return "no such time" if value is None else f"{value:.2f} ms"


if __name__ == "__main__":
    sys.exit(main())
