"""The gate against engines whose costs are known: it must find the best γ, keep it, and never pay for being wrong."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_rl_efficientrollout.config import GateSettings
from nemo_rl_efficientrollout.gate import AutoGate, FixedGate, Load, RandomGate, Step, make_gate
from nemo_rl_efficientrollout.gate.policy import State
from nemo_rl_efficientrollout.gate.prior import Prior
from nemo_rl_efficientrollout.gate.probing import SHARE, Probing
from tests.simulated import Cost, SimulatedEngine

MAX = 7
LENGTHS = range(MAX + 1)


def memory_bound(load: Load, length: int) -> float:
    """Verification is free up to 16 tokens in flight, then grows with the tokens."""
    return 0.01 * max(1.0, load.batch * (length + 1) / 16)


def drafter(share: float) -> Cost:
    return lambda load, length: 0.01 * share * max(1.0, load.batch / 16)


def engine(share: float, alpha: float, noise: float = 0.0, verify: Cost = memory_bound) -> SimulatedEngine:
    return SimulatedEngine(verify, drafter(share), alpha, LENGTHS, noise=noise)


def share_speculating(lengths: list[int]) -> float:
    return sum(length > 0 for length in lengths) / len(lengths)


@pytest.mark.parametrize("alpha", [0.7, 0.85, 0.95])
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_reaches_the_oracle_at_batch_one(alpha: float, share: float) -> None:
    world, gate = engine(share, alpha, noise=0.02), AutoGate(MAX)
    world.run(gate, Load(1, 1000.0), 2000)
    assert np.mean(world.regrets[300:]) < 0.02


@pytest.mark.parametrize("alpha", [0.7, 0.95])
def test_outcomes_that_come_a_step_late_cost_nothing(alpha: float) -> None:
    """Under asynchronous scheduling a step is chosen before the one before it is known."""
    world, gate = engine(0.4, alpha, noise=0.02), AutoGate(MAX)
    world.delay = 1
    world.run(gate, Load(1, 1000.0), 2000)
    assert np.mean(world.regrets[300:]) < 0.02
    assert share_speculating(world.run(gate, Load(128, 1000.0), 600)[-300:]) < 0.1


@pytest.mark.parametrize("batch", [2, 16, 64, 128])
@pytest.mark.parametrize("alpha", [0.3, 0.6, 0.95])
def test_is_never_slower_than_plain_decoding(batch: int, alpha: float) -> None:
    world, gate, load = engine(0.5, alpha, noise=0.05), AutoGate(MAX), Load(batch, 1000.0)
    world.run(gate, load, 2000)
    assert world.speed() >= 0.99 * batch / memory_bound(load, 0)


def test_turns_on_in_the_tail_and_off_again() -> None:
    world, gate = engine(0.4, 0.9), AutoGate(MAX)
    bulk = world.run(gate, Load(64, 300.0), 600)
    tail = world.run(gate, Load(1, 3000.0), 600)
    again = world.run(gate, Load(64, 300.0), 600)
    assert share_speculating(bulk) < 0.1
    assert share_speculating(tail[100:]) > 0.9
    assert share_speculating(again) < 0.1


def test_recovers_from_a_drafter_that_was_useless_for_a_while() -> None:
    world, gate, load = engine(0.4, 0.02), AutoGate(MAX), Load(1, 1000.0)
    off = world.run(gate, load, 2000)
    assert share_speculating(off[500:]) < 0.1
    world.alpha = 0.95
    on = world.run(gate, load, 6000)
    assert share_speculating(on[-1000:]) > 0.9


def test_follows_a_drift_of_the_costs() -> None:
    world, gate, load = engine(0.3, 0.8, noise=0.02), AutoGate(MAX), Load(1, 1000.0)
    assert share_speculating(world.run(gate, load, 1000)[-500:]) > 0.9
    world.draft = drafter(3.0)  # a neighbour took the cores
    assert share_speculating(world.run(gate, load, 1000)[-500:]) < 0.1


def test_the_tail_is_not_judged_by_the_bulk() -> None:
    world, gate = engine(0.3, 0.2), AutoGate(MAX)
    world.run(gate, Load(4, 300.0), 2000)  # short contexts: the drafter is useless
    world.alpha = 0.95
    tail = world.run(gate, Load(1, 6000.0), 1000)
    assert share_speculating(tail[-500:]) > 0.9


def test_does_not_dither_on_a_tie() -> None:
    world = SimulatedEngine(lambda load, length: 0.01, lambda load, length: 0.008, 0.8, LENGTHS, noise=0.05)
    chosen = world.run(AutoGate(MAX), Load(1, 1000.0), 3000)
    assert sum(a != b for a, b in pairwise(chosen[300:])) < 0.3 * len(chosen)
    assert np.mean(world.regrets[300:]) < 0.02


def test_probing_is_paid_from_a_share_of_decode_time() -> None:
    world, gate, load = engine(0.9, 0.3, noise=0.02), AutoGate(MAX), Load(64, 1000.0)
    world.run(gate, load, 3000)
    assert gate.probing.spent <= SHARE * world.seconds + memory_bound(load, 0)
    assert gate.probing.spent > 0.0
    assert world.seconds / (world.tokens / load.batch) <= 1.01 * memory_bound(load, 0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("doubt", [1e3, np.inf])
def test_what_is_doubted_without_bound_is_probed_at_its_price(doubt: float) -> None:
    probing, cycles = Probing(), np.array([0.01, 0.02, 0.03])
    look = (0, np.array([1.0, 0.5, 0.4]), np.array([0.0, doubt, doubt]), cycles)
    assert probing.look(*look)[0] is None
    probing.lend(0.05)
    index, why = probing.look(*look)
    assert index == 1
    assert "nan" not in why
    assert 0.0 < probing.spent <= cycles[1]


def test_of_two_probes_the_one_that_promises_more_for_its_price_is_taken() -> None:
    probing = Probing()
    probing.lend(0.05)
    cycles, doubts = np.array([0.01, 0.05, 0.06]), np.array([0.1, 0.0, 0.12])
    index, _ = probing.look(1, np.array([1.0, 1.0, 1.0]), doubts, cycles)  # γ = 2 promises a little more for six times
    assert index == 0
    assert probing.look(1, np.array([0.5, 1.0, 1.0]), doubts, cycles)[0] == 2  # what promises nothing is not cheap


def test_probes_get_rarer_while_nothing_changes() -> None:
    world, gate, load = engine(0.65, 0.6, noise=0.02), AutoGate(MAX), Load(1, 1000.0)
    world.run(gate, load, 3000)
    assert gate.probing.spent > 0.5 * SHARE * world.seconds
    spent, seconds = gate.probing.spent, world.seconds
    world.run(gate, load, 9000)
    assert 0.0 < gate.probing.spent - spent < 0.8 * SHARE * (world.seconds - seconds)


def test_plain_decoding_is_measured_again_where_speculation_is_believed_to_pay() -> None:
    world, gate = engine(0.3, 0.95, noise=0.02), AutoGate(MAX)
    world.run(gate, Load(1, 1000.0), 300)
    assert gate.state is State.SPECULATING
    elsewhere = world.run(gate, Load(8, 1000.0), 40)  # a batch size at which no plain step was ever timed
    pairs = list(pairwise(elsewhere))
    assert (0, 0) in pairs[1:], "two plain steps in a row: one of them drafts nothing and verifies nothing"
    world.verify = lambda load, length: 0.01 * (0.4 if not length else 3.0)  # now drafting is a loss, T_T is lower
    assert share_speculating(world.run(gate, Load(8, 1000.0), 400)[-100:]) < 0.1


def test_learning_waits_for_plain_steps_and_the_trace_says_why() -> None:
    gate, load = AutoGate(MAX), Load(4, 500.0)
    for _ in range(20):
        assert gate.choose(load) == 0
        gate.observe(Step(load, 0, 0, 9.9, decode_only=False))  # prefills teach nothing about decoding
    assert gate.state is State.LEARNING
    for _ in range(3):
        gate.observe(Step(load, 0, 0, 0.01, decode_only=True))
    gate.choose(load)
    assert gate.state is not State.LEARNING
    assert gate.trace[-1].why
    assert gate.trace[-1].load == load


def test_a_drafter_that_did_not_draft_is_not_taken_for_a_fast_one() -> None:
    gate, load = AutoGate(MAX), Load(1, 500.0)
    for _ in range(50):  # the drafter lags behind the policy: γ is asked for, nothing is drafted
        gate.observe(Step(load, 0, gate.choose(load), 0.01, decode_only=True))
    assert gate.tracker is not None
    assert gate.tracker.model.seconds("draft", 1, 500.0, 3) > 0.002


def test_first_steps_of_a_kind_may_pay_for_compilation() -> None:
    world, gate, load = engine(0.3, 0.9), AutoGate(MAX), Load(1, 1000.0)
    compiled: set[tuple[int, int]] = set()
    true = world.verify

    def verify(at: Load, length: int) -> float:
        first = (at.batch, length) not in compiled
        compiled.add((at.batch, length))
        return true(at, length) + (1.0 if first and length else 0.0)

    world.verify = verify
    world.run(gate, load, 600)
    assert share_speculating(world.chosen[300:]) > 0.9


@given(
    batch=st.one_of(st.integers(-3, 5000), st.just(0)),
    context=st.floats(allow_nan=True, allow_infinity=True),
    seconds=st.floats(allow_nan=True, allow_infinity=True),
    accepted=st.integers(0, MAX),
    decode_only=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_no_input_makes_it_raise_or_overreach(
    batch: int, context: float, seconds: float, accepted: int, decode_only: bool
) -> None:
    gate = AutoGate(MAX, prior=Prior(plain_seconds=1.0, draft_ratio=0.1))
    good = Load(1, 500.0)
    for _ in range(4):
        gate.choose(good)
        gate.observe(Step(good, 0, 0, 0.01, True))
    load = Load(batch, context)
    for _ in range(4):
        length = gate.choose(load)
        assert 0 <= length <= MAX
        if batch < 1 or not math.isfinite(context) or context < 0:
            assert length == 0
        gate.observe(Step(load, 3, length, seconds, decode_only, [3], [min(accepted, 3)], [500]))
    assert gate.tracker is not None
    assert np.isfinite(gate.tracker.mean).all()
    assert np.isfinite(gate.tracker.covariance).all()
    assert 0 <= gate.choose(good) <= MAX


@given(seed=st.integers(0, 2**31), alpha=st.floats(0.0, 1.0), share=st.floats(0.01, 5.0))
@settings(max_examples=40, deadline=None)
def test_lengths_stay_within_limits_whatever_the_engine(seed: int, alpha: float, share: float) -> None:
    world = SimulatedEngine(memory_bound, drafter(share), alpha, LENGTHS, noise=0.3, outliers=0.1, seed=seed)
    gate = AutoGate(MAX)
    rng = np.random.default_rng(seed)
    for _ in range(100):
        assert 0 <= world.step(gate, Load(int(rng.integers(1, 300)), float(rng.integers(1, 40000)))) <= MAX


def test_goes_to_the_longest_draft_and_not_beyond() -> None:
    world = SimulatedEngine(lambda load, length: 0.01, drafter(0.02), 0.999, LENGTHS)
    chosen = world.run(AutoGate(MAX), Load(1, 1000.0), 300)
    assert max(chosen) == MAX


def test_gates_by_name() -> None:
    assert isinstance(make_gate(GateSettings(), MAX), AutoGate)
    load = Load(3, 100.0)
    assert make_gate(GateSettings(mode="off"), MAX).choose(load) == 0
    fixed = make_gate(GateSettings(mode="fixed", draft_length=2), MAX)
    assert isinstance(fixed, FixedGate)
    assert fixed.choose(load) == 2
    rng = make_gate(GateSettings(mode="random", seed=1), MAX)
    assert isinstance(rng, RandomGate)
    assert {rng.choose(load) for _ in range(300)} == set(LENGTHS)
