"""A plan: what a step will take, plain and with a drafter of each format, over draws of all that is not known.

All ways share a draw's machine, deal and chance, so ratios are of pairs. A step waits for its last engine; what is said
of speculation is of that one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..gate.cost_model import CostModel
from ..gate.terms import Vector
from ..simulate import AcceptanceCurve, Costs, Fixed, Phases, Policy, Rollout, Slowed, replay, train
from .assumptions import CONFIDENCE, MACHINE, draws, rejected
from .deals import Deal, deals
from .gpus import missing_kernel
from .machine import guessed, measured
from .memory import Memory, memory
from .policy import BestWithin
from .scenario import Scenario
from .weights import forward

if TYPE_CHECKING:  # it imports torch
    from ..drafter.formats import Format

DRAWS = 64
PLAIN = "plain"
_DEALS = 8
_STEPS = 8
"""Of the training loop: with a lag it takes a few until they repeat."""
_FLOPS_OF_TRAINING, _FLOPS_OF_LOGPROBS = 3.0, 2.0
"""Forward passes: with backward; of policy and reference model."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Quantiles over draws: 5 %, 50 %, 95 %."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        low, middle, high = np.quantile(values, [0.5 - CONFIDENCE / 2, 0.5, 0.5 + CONFIDENCE / 2]).tolist()
        return cls(low, middle, high)


@dataclass(frozen=True)
class Way:
    """Plain decoding, or a drafter's format, and what is expected of it. Ratios are plain / this: above 1 is faster."""

    name: str
    memory: Memory
    refusal: str | None
    """Why nothing was simulated: no memory, or no kernel."""
    rollout_s: Spread | None = None
    step_s: Spread | None = None
    rollout_ratio: Spread | None = None
    step_ratio: Spread | None = None
    speculating: Spread | None = None
    """Share of the rollout's time."""
    draft_length: Spread | None = None
    """Mean γ of drafts."""
    acceptance: Spread | None = None
    """α."""
    best: float = 0.0
    """Share of the draws in which its steps are the fastest of all."""


@dataclass(frozen=True)
class Forecast:
    """Plain first among equals: `ways` are the formats, best first."""

    scenario: Scenario
    plain: Way
    ways: tuple[Way, ...]
    draws: int
    calibrated: str | None
    """Where measured step times come from; None if they are guessed."""
    rollouts: Mapping[str, Rollout]
    """Of the last engine, in the draw whose plain rollout is the median one; by way."""

    @property
    def best(self) -> Way:
        """What to run: plain decoding where no format fits or is faster."""
        return next((way for way in self.ways if way.step_ratio and way.step_ratio.middle > 1.0), self.plain)


@dataclass
class _Tally:
    """One way's numbers, draw by draw."""

    way: Way
    form: "Format | None"
    rollout: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)
    last: list[Rollout] = field(default_factory=list)
    acceptance: list[float] = field(default_factory=list)


def forecast(
    scenario: Scenario,
    forms: "Mapping[str, Format]",
    count: int = DRAWS,
    seed: int = 0,
    calibration: tuple[str, CostModel] | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Forecast:
    """Simulate every format of the scenario in `count` draws.

    Args:
        scenario: what to plan.
        forms: the formats by name, those of the scenario at least.
        count: draws.
        seed: of their chance; the same seed is the same machines and deals, whatever the scenario.
        calibration: where step times were measured, and the model of them; it is of one format.
        progress: called after each draw.

    Raises:
        UserError: the model does not divide among its GPUs, or the policy alone does not fit.
    """
    model = calibration[1] if calibration else None
    normal, thetas = draws(count, model.terms.size if model else 0, seed)
    middle = dict.fromkeys(normal[0], 0.0)
    first = guessed(scenario.model, scenario.gpu, scenario.tensor_parallel, None, middle)
    dealt = list(deals(scenario, first, min(_DEALS, count), seed))
    chance = np.random.default_rng(seed)
    tallies = [_tally(scenario, None), *(_tally(scenario, forms[name]) for name in scenario.formats)]
    for index in range(count):
        slow = set(chance.permutation(scenario.engines)[: scenario.stragglers].tolist())
        _draw(scenario, tallies, dealt[index % len(dealt)], slow, normal[index], (model, thetas[index]))
        progress()
    return _forecast(scenario, tallies, calibration[0] if calibration else None)


def _tally(scenario: Scenario, form: "Format | None") -> _Tally:
    name = form.name if form else PLAIN
    needs = memory(scenario, form)
    refusal = (missing_kernel(scenario.gpu, name) if form else None) or needs.problem
    return _Tally(Way(name, needs, refusal), form)


def _draw(
    scenario: Scenario,
    tallies: list[_Tally],
    deal: Deal,
    slow: set[int],
    normal: Mapping[str, float],
    measurement: tuple[CostModel | None, Vector],
) -> None:
    """Add one draw to the tally of every way that was not refused."""
    everyone = range(len(deal.parts))
    watched = deal.watched([i for i in everyone if i not in slow]) | deal.watched([i for i in everyone if i in slow])
    for tally in tallies:
        if tally.way.refusal:
            continue
        if measurement[0] is not None:
            costs = measured(measurement[0], measurement[1])
        else:
            costs = guessed(scenario.model, scenario.gpu, scenario.tensor_parallel, tally.form, normal)
        alpha = 0.0
        if tally.form is not None:
            alpha = max(1.0 - rejected(scenario.rejected, tally.way.name).at(normal["rejected"]), 0.0)
        last = max(
            (_rollout(scenario, tally, deal, i, Slowed(costs, scenario.slowness) if i in slow else costs, alpha)
             for i in watched),
            key=lambda rollout: rollout.seconds,
        )  # fmt: skip
        tally.last.append(last)
        tally.rollout.append(last.seconds)
        tally.step.append(_step_seconds(scenario, last.seconds, tally.form is not None, normal))
        tally.acceptance.append(alpha)


def _rollout(scenario: Scenario, tally: _Tally, deal: Deal, index: int, costs: Costs, alpha: float) -> Rollout:
    drafting = tally.form is not None
    acceptance = AcceptanceCurve.constant(alpha, scenario.max_draft_length)
    policy: Policy = BestWithin(costs, acceptance, scenario.most_drafted_for) if drafting else Fixed(0)
    return replay(deal.parts[index], costs, acceptance, policy, tally.way.memory.limits(scenario, drafting))


def _step_seconds(scenario: Scenario, rollout: float, drafting: bool, normal: Mapping[str, float]) -> float:
    """Of the training loop, once it repeats."""
    value = {name: MACHINE[name].at(normal[name]) for name in ("training", "refit_bytes_per_s", "requantize_reads")}
    shape = scenario.model.shape(scenario.tensor_parallel)
    policy = forward(shape, scenario.model.routed)
    requantize = 0.0
    if drafting:
        bytes_per_s = MACHINE["bandwidth"].at(normal["bandwidth"]) * scenario.gpu.bytes_per_s
        requantize = value["requantize_reads"] * (policy.bytes + policy.expert_bytes) / bytes_per_s
    if scenario.rest_seconds is not None:
        phases = Phases(0.0, scenario.rest_seconds, requantize)
    else:
        gpus = (scenario.training_gpus or scenario.gpus) if scenario.lag else scenario.gpus
        rate = value["training"] * scenario.gpu.bf16_flops * gpus
        tokens = scenario.responses * scenario.prompt_tokens + int(
            scenario.response_lengths.spread(scenario.responses).sum()
        )
        passed = policy.flops * scenario.tensor_parallel * tokens / rate
        refit = (policy.bytes + policy.expert_bytes) / value["refit_bytes_per_s"]
        phases = Phases(_FLOPS_OF_LOGPROBS * passed, _FLOPS_OF_TRAINING * passed, refit + requantize)
    return train([rollout] * _STEPS, phases, scenario.lag).step_seconds


def _forecast(scenario: Scenario, tallies: list[_Tally], calibrated: str | None) -> Forecast:
    plain = tallies[0]
    ran = [tally for tally in tallies if tally.step]
    steps = np.array([tally.step for tally in ran])
    fastest = np.argmin(steps, axis=0) if len(ran) else np.zeros(0)
    ways = {t.way.name: _way(t, plain, float(np.mean(fastest == i))) for i, t in enumerate(ran)}
    found = [ways.get(tally.way.name, tally.way) for tally in tallies]
    order = sorted(found[1:], key=lambda way: way.step_s.middle if way.step_s else np.inf)
    median = int(np.argsort(plain.rollout)[len(plain.rollout) // 2]) if plain.rollout else 0
    rollouts = {tally.way.name: tally.last[median] for tally in ran}
    count = max((len(tally.step) for tally in ran), default=0)
    return Forecast(scenario, found[0], tuple(order), count, calibrated, rollouts)


def _way(tally: _Tally, plain: _Tally, best: float) -> Way:
    def ratio(own: list[float], other: list[float]) -> Spread | None:
        return Spread.of(np.divide(other, own).tolist()) if other else None

    speculation: dict[str, Spread | None] = {}
    if tally.form is not None:
        speculation = {
            "speculating": Spread.of([rollout.speculating for rollout in tally.last]),
            "draft_length": Spread.of(list(_draft_lengths(tally.last))),
            "acceptance": Spread.of(tally.acceptance),
        }
    return Way(
        tally.way.name,
        tally.way.memory,
        None,
        rollout_s=Spread.of(tally.rollout),
        step_s=Spread.of(tally.step),
        rollout_ratio=ratio(tally.rollout, plain.rollout) if tally is not plain else None,
        step_ratio=ratio(tally.step, plain.step) if tally is not plain else None,
        best=best,
        **speculation,
    )


def _draft_lengths(rollouts: Sequence[Rollout]) -> Iterator[float]:
    for rollout in rollouts:
        yield rollout.drafts / rollout.verifications if rollout.verifications else 0.0
