"""Rollouts of the paper's shape, of one published model with one kind of step times, under every way to choose γ.

Response lengths follow from when responses completed under plain decoding (simulate/completions.py) and the cost model.
The constants describe forward passes only, so there are three kinds of times:

* forward: the published constants as they are;
* head: every step, of target and drafter, reads the 16-bit lm_head besides;
* engine: every step, of target and drafter, takes as much more as the published T_T of the running engine exceeds the
  forward time of one request. That a drafter step leaves out as much as a target step is an assumption.

A fourth one, implied, is a diagnosis and no prediction: forward, with a drafter step that is longer by what the
measured saving of always-on implies.
"""

import math
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field

import numpy as np

from nemo_rl_efficientrollout.gate import AutoGate, Gate
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
    Rollout,
    Workload,
    at_once,
    cluster,
    replay,
)
from nemo_rl_efficientrollout.simulate.completions import lengths
from nemo_rl_efficientrollout.simulate.reference import RUNGS

from .published_models import ENGINES, MODELS, MOST_PROMPT, MOST_RESPONSE, REQUESTS, SAMPLES, PublishedModel

LEAST_PROMPT = 64
"""Prompts are published only as at most 1024 tokens: taken as log-uniform from here to there."""
DRAFT_LENGTHS = tuple(range(12))
"""On offer where γ is chosen: up to the ladder's top."""
TABLE_SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
MOST_DRAFTED_FOR = 64
"""Largest batch for which this project drafts by default."""
NOISE = 0.02
"""Relative deviation of a step's time where steps are sampled."""
KINDS = ("forward", "head", "engine")
IMPLIED = "implied"
_MOST_EXTRA_S = 0.05


@dataclass
class Setting:
    """One model with one kind of times: the same rollouts for every policy."""

    model: PublishedModel
    kind: str
    rollouts: int
    costs: Costs = field(init=False)
    works: list[Workload] = field(init=False)
    plain: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.costs = _costs(self.model, self.kind)
        self.works = _workloads(_lengths_of(self.model), self.kind, self.rollouts)
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

        def one(part: Workload, own: Costs) -> Rollout:
            return replay(part, own, acceptance, policy(acceptance), limits)

        return [cluster.run(work, ENGINES, costs or self.costs, one).longest for work in self.works]

    def implied(self) -> tuple["Setting", float]:
        """The same rollouts with the drafter step that the measured always-on implies, and its additional seconds."""
        extra = self.implied_extra(self.always_on, self.model.always_on.reduction)
        other = copy(self)
        other.kind, other.costs = IMPLIED, Overhead(self.costs, 0.0, extra)
        return other, extra

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

    def gated(self) -> list[float]:
        """This project's gate, uncalibrated, engines and gates going on from rollout to rollout."""
        return self._sampled(lambda _: AutoGate(max(DRAFT_LENGTHS)), MOST_DRAFTED_FOR)

    def sampled_oracle(self) -> list[float]:
        """The oracle step by step, its luck of the same kind as the gate's."""
        return self._sampled(lambda acceptance: PolicyGate(Best(self.costs, acceptance, DRAFT_LENGTHS)), REQUESTS)

    def _sampled(self, new_gate: Callable[[AcceptanceCurve], Gate], drafted_for: int) -> list[float]:
        acceptance = AcceptanceCurve.constant(self.model.reference.alpha, max(DRAFT_LENGTHS))
        gates = [new_gate(acceptance) for _ in range(ENGINES)]
        engines = [
            Engine(self.costs, acceptance, gate, self.limits(True), drafted_for, noise=NOISE, seed=seed)
            for seed, gate in enumerate(gates)
        ]
        found = []
        for work in self.works:
            parts = cluster.split(work, ENGINES)
            found.append(max(engine.rollout(part).seconds for engine, part in zip(engines, parts, strict=True)))
            for gate in gates:
                gate.refit()
        return found

    def implied_extra(self, seconds: Callable[[Costs], list[float]], target: float) -> float:
        """Seconds by which each drafter step would have to be longer for this reduction: a diagnosis."""
        low, high = 0.0, _MOST_EXTRA_S
        for _ in range(20):
            middle = 0.5 * (low + high)
            saved = reduction(seconds(Overhead(self.costs, 0.0, middle)), self.plain)
            low, high = (middle, high) if saved > target else (low, middle)
        return high


def reduction(seconds: list[float], plain: list[float]) -> float:
    """Of the mean time, over the rollouts that both had."""
    return 1.0 - sum(seconds) / sum(plain[: len(seconds)])


def _costs(model: PublishedModel, kind: str) -> Costs:
    extra = {"forward": 0.0, "head": model.head_s, "engine": model.engine_s}[kind]
    return Overhead(model.roofline, extra, extra)


def _lengths_of(model: PublishedModel) -> PublishedModel:
    """The model whose completions are published, of the same family and data where its own are not."""
    return model if model.completions else MODELS[0]


def _workloads(model: PublishedModel, kind: str, count: int) -> list[Workload]:
    """Rollouts with the same response lengths, dealt to the engines by chance."""
    assert model.completions is not None
    costs, chance = _costs(model, kind), np.random.default_rng(0)
    prompts = ENGINES * REQUESTS // SAMPLES
    widths = [np.exp(chance.uniform(math.log(LEAST_PROMPT), math.log(MOST_PROMPT), prompts)) for _ in range(count)]
    mean = float(np.mean(widths))
    prefill = costs.prefill(np.full(REQUESTS // SAMPLES, mean))
    responses = lengths(model.completions, costs, REQUESTS, ENGINES, mean, prefill, MOST_RESPONSE)
    return [
        at_once(np.repeat(np.rint(width).astype(int), SAMPLES), chance.permutation(responses), SAMPLES)
        for width in widths
    ]
