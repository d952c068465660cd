"""What alarms about the gate know: predictions of what runs, whoever chose it, and how well times were foretold."""

import pytest

from nemo_rl_efficientrollout.alarm import PATIENCE, ROOM, Alarms
from nemo_rl_efficientrollout.gate import AutoGate, FixedGate, Load
from nemo_rl_efficientrollout.gate.foresight import MOST, Foresight
from tests.simulated import SimulatedEngine

MAX = 7
TAIL = [8] * 10 + [4] * 10 + [2] * 12 + [1] * 16
"""Requests in each step of a short rollout."""


class Trainings:
    """Rollouts of a gate in an engine whose costs are known, and the metrics of each."""

    def __init__(self, gate: AutoGate, world: SimulatedEngine) -> None:
        self.gate, self.world, self.alarms = gate, world, Alarms()
        self.metrics: dict[str, float] = {}

    def rollout(self) -> list[str]:
        """Names of the alarms that it raises."""
        taken = best = 0.0
        before = self.gate.foresight.measured, self.gate.foresight.predicted
        for batch in TAIL:
            load = Load(batch, 500.0)
            asked = self.world.step(self.gate, load)
            if (prediction := self.gate.predict(load, asked)) is not None:
                taken, best = taken + 1.0, best + prediction.speedup / prediction.best
        self.gate.refit()
        measured = self.gate.foresight.measured - before[0]
        predicted = self.gate.foresight.predicted - before[1]
        self.metrics = {
            f"{ROOM}regret_estimate": taken / best - 1.0,
            f"{ROOM}measured_over_predicted": measured / predicted,
            f"{ROOM}engines_without_cost_model": float(self.gate.blind),
        }
        return [alarm.name for alarm in self.alarms.observe(self.metrics)]


def memory_bound(load: Load, length: int) -> float:
    return 0.01 * max(1.0, load.batch * (length + 1) / 16)


def world(share: float, alpha: float, seed: int = 0) -> SimulatedEngine:
    return SimulatedEngine(
        memory_bound, lambda load, length: 0.01 * share, alpha, range(MAX + 1), noise=0.1, outliers=0.03, seed=seed
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("alpha", [0.3, 0.8, 0.95])
@pytest.mark.parametrize("share", [0.3, 0.6, 1.1])
def test_a_sound_gate_raises_no_alarm(share: float, alpha: float, seed: int) -> None:
    """Where drafting pays and where it does not, with 10 % of noise and a step in thirty five times as long."""
    trainings = Trainings(AutoGate(MAX), world(share, alpha, seed))
    for _ in range(12):
        assert trainings.rollout() == [], trainings.metrics


@pytest.mark.parametrize(
    ("alpha", "frozen"), [(0.95, 0), (0.3, MAX)], ids=["plain where drafts pay", "drafts at a loss"]
)
def test_a_frozen_gate_is_found(alpha: float, frozen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings = Trainings(AutoGate(MAX), world(0.3, alpha))
    for _ in range(4):
        trainings.rollout()
    monkeypatch.setattr(trainings.gate, "choose", lambda load: frozen)
    raised = [name for _ in range(PATIENCE + 1) for name in trainings.rollout()]
    assert raised == ["gate_stuck"], trainings.metrics


def test_a_gate_frozen_where_plain_decoding_is_best_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    trainings = Trainings(AutoGate(MAX), world(1.1, 0.3))
    for _ in range(4):
        trainings.rollout()
    monkeypatch.setattr(trainings.gate, "choose", lambda load: 0)
    assert [name for _ in range(2 * PATIENCE) for name in trainings.rollout()] == []


@pytest.mark.parametrize("factor", [1.6, 0.6], ids=["slower", "faster"])
def test_a_machine_that_changes_is_learned_or_rings(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings = Trainings(AutoGate(MAX), world(0.5, 0.8))
    for _ in range(4):
        trainings.rollout()
    with monkeypatch.context() as changed:
        changed.setattr(trainings.world, "verify", lambda load, length: factor * memory_bound(load, length))
        changed.setattr(trainings.world, "draft", lambda load, length: factor * 0.005)
        assert [name for _ in range(2 * PATIENCE) for name in trainings.rollout()] == []
    monkeypatch.setattr(trainings.gate.tracker, "observe", lambda *_: None)
    raised = [name for _ in range(PATIENCE) for name in trainings.rollout()]  # the machine is as it was at first
    assert "cost_model" in raised, trainings.metrics


def test_one_step_counts_little() -> None:
    foresight = Foresight()
    for seconds in (1.0, 1000.0, 1e-6):
        foresight.note(1.0, seconds)
    assert (foresight.predicted, foresight.measured) == (3.0, 1.0 + MOST + 1.0 / MOST)


def test_who_knows_nothing_says_nothing() -> None:
    gate, load = AutoGate(MAX), Load(2, 100.0)
    assert gate.blind
    assert gate.predict(load, 0) is None
    assert FixedGate(3).predict(load, 3) is None
    assert not FixedGate(3).blind


def test_predictions_are_of_what_runs() -> None:
    gate = AutoGate(MAX)
    world(0.3, 0.95).run(gate, Load(1, 500.0), 200)
    plain, longest = gate.predict(Load(1, 500.0), 0), gate.predict(Load(1, 500.0), MAX)
    assert plain is not None
    assert longest is not None
    assert plain.speedup == 1.0 < longest.speedup <= longest.best == plain.best
    assert gate.predict(Load(0, 0.0), 0) is None
