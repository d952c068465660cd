"""The gate against engines whose costs are known: it must find the best γ, keep it, and never pay for being wrong."""

import random
from collections.abc import Callable
from itertools import pairwise

import pytest

from nemo_rl_efficientrollout.config import GateSettings
from nemo_rl_efficientrollout.gate import AutoGate, FixedGate, RandomGate, Step, make_gate
from nemo_rl_efficientrollout.gate.acceptance import Acceptance
from nemo_rl_efficientrollout.gate.step_times import StepTimes

MAX = 7
Cost = Callable[[int, int], float]


class Engine:
    """Plays steps: a cycle of γ costs T_V(γ) + γ T_D; each draft token is accepted with probability `alpha`."""

    def __init__(self, verify: Cost, draft: Callable[[int], float], alpha: float, noise: float = 0.0) -> None:
        self.verify, self.draft, self.alpha, self.noise = verify, draft, alpha, noise
        self.random = random.Random(0)
        self.verified = 0
        self.seconds = 0.0
        self.tokens = 0

    def step(self, gate: AutoGate, active: int) -> int:
        asked = gate.choose(active)
        seconds = self.verify(active, self.verified) + asked * self.draft(active)
        seconds *= 1.0 + self.noise * (self.random.random() - 0.5)
        accepted = [self._accepted() for _ in range(active)] if self.verified else []
        drafted = [self.verified] * len(accepted)
        gate.observe(Step(active, self.verified, asked, seconds, True, drafted, accepted))
        self.seconds += seconds
        self.tokens += active + sum(accepted)
        self.verified = asked
        return asked

    def run(self, gate: AutoGate, active: int, steps: int) -> list[int]:
        return [self.step(gate, active) for _ in range(steps)]

    def _accepted(self) -> int:
        kept = 0
        while kept < self.verified and self.random.random() < self.alpha:
            kept += 1
        return kept


def memory_bound(active: int, draft_length: int) -> float:
    """Verification is free up to 16 tokens in flight, then grows with the tokens."""
    return 1.0 * max(1.0, active * (draft_length + 1) / 16)


def best_speed(verify: Cost, draft: float, alpha: float, active: int) -> tuple[float, int]:
    """Oracle: (tokens per second of the best γ over plain decoding, that γ)."""
    speeds = []
    for length in range(MAX + 1):
        tokens = sum(alpha**i for i in range(length + 1))
        speeds.append(tokens / (verify(active, length) + length * draft) * verify(active, 0))
    return max(speeds), speeds.index(max(speeds))


@pytest.mark.parametrize("alpha", [0.7, 0.85, 0.95])
@pytest.mark.parametrize("draft", [0.3, 0.6])
def test_reaches_the_oracle_at_batch_one(alpha: float, draft: float) -> None:
    engine, gate = Engine(memory_bound, lambda active: draft, alpha, noise=0.1), AutoGate(MAX)
    engine.run(gate, 1, 4000)
    speed = engine.tokens / engine.seconds
    assert speed >= 0.95 * best_speed(memory_bound, draft, alpha, 1)[0]


@pytest.mark.parametrize("active", [2, 16, 64, 128])
@pytest.mark.parametrize("alpha", [0.3, 0.6, 0.95])
def test_is_never_slower_than_plain_decoding(active: int, alpha: float) -> None:
    engine, gate = Engine(memory_bound, lambda active: 0.5 * max(1.0, active / 16), alpha, noise=0.1), AutoGate(MAX)
    engine.run(gate, active, 2000)
    plain = active / memory_bound(active, 0)
    assert engine.tokens / engine.seconds >= 0.99 * plain


def test_turns_on_in_the_tail_and_off_again() -> None:
    engine, gate = Engine(memory_bound, lambda active: 0.4 * max(1.0, active / 16), 0.9), AutoGate(MAX)
    bulk = engine.run(gate, 64, 600)
    tail = engine.run(gate, 1, 600)
    again = engine.run(gate, 64, 600)
    assert sum(length > 0 for length in bulk) < 0.1 * len(bulk)
    assert sum(length > 0 for length in tail[100:]) > 0.9 * len(tail[100:])
    assert sum(length > 0 for length in again) < 0.1 * len(again)


def test_recovers_from_a_drafter_that_was_useless_for_a_while() -> None:
    engine, gate = Engine(memory_bound, lambda active: 0.4, 0.02), AutoGate(MAX)
    off = engine.run(gate, 1, 2000)
    assert sum(length > 0 for length in off[500:]) < 0.1 * 1500
    engine.alpha = 0.95
    on = engine.run(gate, 1, 6000)
    assert sum(length > 0 for length in on[-1000:]) > 0.9 * 1000


def test_follows_a_drift_of_the_costs() -> None:
    draft = [0.3]
    engine, gate = Engine(memory_bound, lambda active: draft[0], 0.8), AutoGate(MAX)
    engine.run(gate, 1, 1000)
    draft[0] = 3.0  # a neighbour took the cores
    late = engine.run(gate, 1, 1000)
    assert sum(length > 0 for length in late[-500:]) < 0.1 * 500


def test_does_not_thrash_on_a_tie() -> None:
    engine = Engine(lambda active, length: 1.0 + 0.0 * length, lambda active: 0.8, 0.8, noise=0.2)
    chosen = engine.run(AutoGate(MAX), 1, 3000)
    switches = sum(a != b for a, b in pairwise(chosen[200:]))
    assert switches < 0.03 * len(chosen)


def test_prefill_steps_teach_nothing_about_cost() -> None:
    gate = AutoGate(MAX)
    for _ in range(20):
        gate.observe(Step(4, 0, 0, 9.9, decode_only=False))
    assert gate.times.seconds(4, 0) is None


def test_outliers_do_not_count() -> None:
    times = StepTimes()
    for seconds in (50.0, 1.0, 1.0, 40.0, 1.0):  # the first step of a kind pays for cold caches
        times.observe(4, 0, seconds)
    assert times.seconds(4, 0) == 1.0


def test_cost_ratio_is_measured_here_then_nearby_then_interpolated_then_assumed() -> None:
    times = StepTimes()
    assert times.cost_ratio(1, 0) == 1.0
    assert times.cost_ratio(1, 4) == 3.0  # the prior
    for _ in range(5):
        times.observe(8, 0, 1.0)
        times.observe(8, 2, 1.5)
        times.observe(8, 4, 2.5)
    assert times.cost_ratio(8, 2) == 1.5
    assert times.cost_ratio(8, 3) == 2.0
    assert times.cost_ratio(8, 6) == 3.5
    assert times.cost_ratio(64, 4) == 2.5


def test_acceptance_converges_by_position() -> None:
    acceptance = Acceptance(3)
    rng = random.Random(0)
    for _ in range(3000):
        kept = 0
        for rate in (0.9, 0.6, 0.3):
            if rng.random() >= rate:
                break
            kept += 1
        acceptance.observe([3], [kept])
    assert acceptance.rates() == pytest.approx([0.9, 0.6, 0.3], abs=0.1)
    lengths = acceptance.lengths()
    assert lengths[0] == 1.0
    assert lengths[3] == pytest.approx(1 + 0.9 + 0.9 * 0.6 + 0.9 * 0.6 * 0.3, abs=0.15)


def test_acceptance_starts_optimistic_and_refit_weakens_the_past() -> None:
    acceptance = Acceptance(2)
    assert acceptance.rates() == [0.9, 0.9]
    for _ in range(50):
        acceptance.observe([2], [0])
    low = acceptance.rates()[0]
    acceptance.refit()
    assert low < 0.1
    assert acceptance.rates()[0] > low


def test_acceptance_counts_a_short_draft_by_its_own_length() -> None:
    acceptance = Acceptance(4)
    for _ in range(200):
        acceptance.observe([1], [1])  # a row near the length limit drafts one token: position 2 was never tried
    assert acceptance._reached[1] == 0.0


def test_gates_by_name() -> None:
    assert isinstance(make_gate(GateSettings(), MAX), AutoGate)
    assert make_gate(GateSettings(mode="off"), MAX).choose(3) == 0
    fixed = make_gate(GateSettings(mode="fixed", draft_length=2), MAX)
    assert isinstance(fixed, FixedGate)
    assert fixed.choose(1) == 2
    rng = make_gate(GateSettings(mode="random", seed=1), MAX)
    assert isinstance(rng, RandomGate)
    assert {rng.choose(1) for _ in range(300)} == set(range(MAX + 1))
