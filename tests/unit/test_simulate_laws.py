"""Conservation laws of the simulator, for any workload, machine, limits and acceptance."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_rl_efficientrollout.gate.terms import Vector
from nemo_rl_efficientrollout.simulate import (
    AcceptanceCurve,
    BatchTable,
    Best,
    Engine,
    Fixed,
    Limits,
    OneWayToggle,
    Policy,
    PolicyGate,
    Rollout,
    Roofline,
    Workload,
    replay,
)
from nemo_rl_efficientrollout.simulate.policies import token_seconds
from nemo_rl_efficientrollout.simulate.roofline import Static
from nemo_rl_efficientrollout.simulate.workload import Counts

LONGEST = 7
EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def workloads(draw: st.DrawFn, arriving: bool = True) -> Workload:
    """Up to 24 requests; those of a workload that does not arrive are all there at once."""
    count = draw(st.integers(1, 24))
    column = st.lists(st.integers(1, 300), min_size=count, max_size=count)
    prompt, response = np.array(draw(column)), np.array(draw(column))
    latest = draw(st.sampled_from([0.0, 1.0, 20.0])) if arriving else 0.0
    arrival = np.sort(np.random.default_rng(draw(st.integers(0, 99))).uniform(0.0, latest, count))
    return Workload(prompt, response, arrival, np.arange(count) // draw(st.integers(1, 4)))


@st.composite
def machines(draw: st.DrawFn) -> Roofline:
    """Any machine and model: fast or slow memory, cheap or dear drafts, cheap or dear contexts."""
    factor = st.floats(0.2, 5.0)
    known = Static(15e9, draw(st.floats(2e9, 12e9)), 57344, 14e9, 4e5)
    each = draw(st.floats(0.0, 100.0))
    return Roofline(
        known, 1.6e12 * draw(factor), 26000 * draw(factor), 1.3, each, each * draw(factor), each * draw(factor)
    )


@st.composite
def curves(draw: st.DrawFn) -> AcceptanceCurve:
    """Rates by position and by two ranges of context."""
    rates = [[draw(st.floats(0.0, 1.0)) for _ in range(LONGEST)] for _ in range(2)]
    return AcceptanceCurve(np.array(rates), np.array([0.0, 200.0]))


def policies(costs: Roofline, acceptance: AcceptanceCurve) -> dict[str, Callable[[], Policy]]:
    """Every kind."""
    return {
        "plain": lambda: Fixed(0),
        "always 3": lambda: Fixed(3),
        "always 7": lambda: Fixed(LONGEST),
        "table": lambda: BatchTable.best(costs, acceptance, range(LONGEST + 1), (1, 4, 16), 200.0),
        "toggle": lambda: OneWayToggle(costs, 5, 4.0, ramp=4),
        "oracle": lambda: Best(costs, acceptance, range(LONGEST + 1)),
    }


def tight(work: Workload, draw_block: int = 16) -> Limits:
    """Limits under which the largest request just fits."""
    most = int((work.prompt + work.response).max())
    return Limits(requests=8, kv_tokens=most + LONGEST + 1 + draw_block, block=draw_block, lookahead=LONGEST)


def check_books(rollout: Rollout, work: Workload, limits: Limits) -> None:
    """Every token once, no second lost, nothing held that is not there."""
    timeline = rollout.timeline
    assert rollout.tokens == pytest.approx(work.tokens, rel=1e-12)
    parts = rollout.prefill_s + rollout.plain_s + rollout.draft_s + rollout.verify_s + rollout.idle_s
    assert parts == pytest.approx(rollout.seconds, rel=1e-9)
    assert timeline.seconds.sum() + rollout.prefill_s + rollout.idle_s == pytest.approx(rollout.seconds, rel=1e-9)
    assert np.all(timeline.start[1:] >= (timeline.start + timeline.seconds)[:-1] * (1.0 - 1e-12))
    assert rollout.finished.max() == pytest.approx(rollout.seconds, rel=1e-12)
    assert np.all(rollout.finished > work.arrival)
    assert timeline.peak_tokens.max() <= limits.kv_tokens
    assert timeline.batch.max() <= limits.requests
    assert rollout.accepted <= rollout.drafts * (1.0 + 1e-12)


@EXAMPLES
@given(workloads(), machines(), curves(), st.booleans())
def test_books_balance_when_expected(work: Workload, costs: Roofline, acceptance: AcceptanceCurve, full: bool) -> None:
    limits = tight(work) if full else Limits()
    for policy in policies(costs, acceptance).values():
        check_books(replay(work, costs, acceptance, policy(), limits), work, limits)


@settings(EXAMPLES, max_examples=10)
@given(workloads(), machines(), curves(), st.booleans(), st.sampled_from(["always 7", "table", "toggle"]))
def test_books_balance_when_sampled(
    work: Workload, costs: Roofline, acceptance: AcceptanceCurve, full: bool, name: str
) -> None:
    limits = tight(work) if full else Limits()
    for seed in range(2):
        engine = Engine(costs, acceptance, PolicyGate(policies(costs, acceptance)[name]()), limits, seed=seed)
        check_books(engine.rollout(work), work, limits)


@EXAMPLES
@given(workloads(arriving=False), machines(), curves(), st.floats(0.0, 1.0), st.integers(1, LONGEST))
def test_more_acceptance_is_never_slower(
    work: Workload, costs: Roofline, acceptance: AcceptanceCurve, share: float, length: int
) -> None:
    more = AcceptanceCurve(acceptance.rates + share * (1.0 - acceptance.rates), acceptance.contexts)
    for make in (lambda _: Fixed(length), lambda curve: Best(costs, curve, range(LONGEST + 1))):
        before = replay(work, costs, acceptance, make(acceptance))
        after = replay(work, costs, more, make(more))
        assert np.all(after.finished <= before.finished * (1.0 + 1e-9))


@EXAMPLES
@given(workloads(arriving=False), machines(), curves())
def test_nobody_beats_the_oracle(work: Workload, costs: Roofline, acceptance: AcceptanceCurve) -> None:
    ways = policies(costs, acceptance)
    oracle = replay(work, costs, acceptance, ways.pop("oracle")())
    for policy in ways.values():
        assert np.all(oracle.finished <= replay(work, costs, acceptance, policy()).finished * (1.0 + 1e-9))


class Watched:
    """A policy, and every load for which it chose."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.loads: list[tuple[Vector, Vector, Counts]] = []

    def plan(self, batch: Vector, context: Vector) -> Counts:
        return self._policy.plan(batch, context)

    def ran(self, batch: Vector, context: Vector, lengths: Counts) -> None:
        self._policy.ran(batch, context, lengths)
        self.loads.append((batch, context, lengths))


@settings(EXAMPLES, max_examples=20)
@given(workloads(), machines(), curves())
def test_nobody_beats_the_oracle_at_any_token(work: Workload, costs: Roofline, acceptance: AcceptanceCurve) -> None:
    """With arrivals or a full cache another order of things may end sooner; no single token ever costs less."""
    oracle = Best(costs, acceptance, range(LONGEST + 1))
    for policy in policies(costs, acceptance).values():
        watched = Watched(policy())
        rollout = replay(work, costs, acceptance, watched, tight(work))
        batch, context, lengths = (np.concatenate(column) for column in zip(*watched.loads, strict=True))
        chosen = sum(token_seconds(costs, acceptance, batch, context, lengths))
        best = sum(token_seconds(costs, acceptance, batch, context, oracle.plan(batch, context)))
        assert np.all(best <= chosen * (1.0 + 1e-12))
        assert np.sum(chosen) == pytest.approx(rollout.plain_s + rollout.draft_s + rollout.verify_s, rel=1e-9)
