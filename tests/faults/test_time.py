"""Clocks that jump and steps that hang: the gate takes them for outliers, and no time is negative."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from nemo_rl_efficientrollout.clock import Clock
from nemo_rl_efficientrollout.gate import AutoGate, Load
from nemo_rl_efficientrollout.gate.probing import MOST_CREDIT
from tests.faults.observed import note
from tests.proof import Proof
from tests.simulated import SimulatedEngine

HOUR = 3600.0
MAX = 5
LOAD = Load(2, 500.0)


def world() -> SimulatedEngine:
    """γ = 5 is 1.9 times as fast as plain decoding."""
    return SimulatedEngine(lambda load, n: 0.01 + 2e-4 * n, lambda load, n: 0.003, 0.95, range(MAX + 1), noise=0.02)


class Disturbed:
    """A gate whose steps seem to take other times than they do: `lie(number, seconds)`."""

    learns = True

    def __init__(self, gate: AutoGate, lie: Callable[[int, float], float]) -> None:
        self.gate, self.lie, self.count = gate, lie, 0

    def choose(self, load: Load) -> int:
        return self.gate.choose(load)

    def observe(self, step: Any) -> None:
        from dataclasses import replace

        self.count += 1
        self.gate.observe(replace(step, seconds=self.lie(self.count, step.seconds)))


LIES: dict[str, Callable[[int, float], float]] = {
    "a step takes an hour": lambda n, s: s + HOUR if n == 500 else s,
    "a step takes 1000 times as long": lambda n, s: 1000 * s if n == 500 else s,
    "two steps in a row take 1000 times as long": lambda n, s: 1000 * s if n in (500, 501) else s,
    "five steps in a row take 1000 times as long": lambda n, s: 1000 * s if 500 <= n < 505 else s,
    "the clock jumps by an hour, on or back, at every tenth step": lambda n, s: (
        s + HOUR * (-1) ** (n // 10) if n % 10 == 0 else s
    ),
    "the first three steps take 1000 times as long": lambda n, s: 1000 * s if n <= 3 else s,
    "the third step takes an hour": lambda n, s: s + HOUR if n == 3 else s,
    "no time passes in every tenth step": lambda n, s: 0.0 if n % 10 == 0 else s,
    "300 steps in a row take 1000 times as long": lambda n, s: 1000 * s if 200 <= n < 500 else s,
}


@pytest.mark.parametrize("lie", LIES)
def test_the_gate_takes_it_for_an_outlier(lie: str, proof: Proof) -> None:
    engine, gate = world(), AutoGate(MAX)
    calm, undisturbed = world(), AutoGate(MAX)
    calm.run(undisturbed, LOAD, 900)
    chosen = engine.run(Disturbed(gate, LIES[lie]), LOAD, 900)  # type: ignore[arg-type]
    regret, usual = float(np.mean(engine.regrets[-300:])), float(np.mean(calm.regrets[-300:]))
    credit = gate.probing._credit / 0.01
    finite = bool(np.isfinite(gate.tracker.mean).all() and (gate.tracker.mean >= 0.0).all()) if gate.tracker else False
    note(
        proof, lie, "gate, 900 simulated steps", "γ within limits; soon the regret of a calm run; no probes bought",
        f"γ from {min(chosen)} to {max(chosen)}; regret of the last 300 steps {regret:.3f} (calm: {usual:.3f});"
        f" credit for probes: {credit:.1f} plain steps",
        set(chosen) <= set(range(MAX + 1)) and finite and regret < usual + 0.03 and credit < 1.5 * MOST_CREDIT,
    )  # fmt: skip


def test_a_clock_that_is_set_back_stands_still(monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    readings = iter([100.0, 101.0, 1.0, 2.5, 5000.0, 4000.0, 4001.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(readings))
    clock = Clock()
    seen = [clock() for _ in range(6)]
    note(
        proof, "clock set back twice", "the package's clock", "stands still, then goes on",
        f"readings 101, 1, 2.5, 5000, 4000, 4001 were taken as {', '.join(f'{s:g}' for s in seen)}",
        seen == [101.0, 101.0, 102.5, 5100.0, 5100.0, 5101.0],
    )  # fmt: skip
