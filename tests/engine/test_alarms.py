"""Every alarm rings on the real engine when what it is for happens, and none when all is well."""

from collections.abc import Callable
from pathlib import Path

import pytest
from vllm import LLM

from nemo_rl_efficientrollout.alarm import ACCEPTANCE, DRAFTED, PATIENCE, Alarms
from nemo_rl_efficientrollout.engine.metrics import counters
from nemo_rl_efficientrollout.nemo_rl.metrics import step_metrics
from tests.alarm_causes import (
    forget_the_drafter,
    freeze_the_drafter,
    freeze_the_gate_at_its_longest,
    slow_down,
    slow_down_drafts,
    stop_learning_costs,
)
from tests.engines import generate, prompts, set_gate, start
from tests.models import VOCABULARY, save_tiny_model, weights_of
from tests.proof import Proof

pytestmark = pytest.mark.engine
MAX = 4
SETTINGS = {"drafter": {"format": "int8"}, "draft_length": {"max": MAX}}
BATCH = prompts(4, VOCABULARY)
TOKENS = 64


class Training:
    """A driver that changes nothing: rollout, refit, metrics, alarms."""

    def __init__(self, model: Path) -> None:
        self.llm = start(model, SETTINGS, max_num_seqs=4)
        self.alarms = Alarms()
        self._weights = weights_of(model)
        self.seen: list[dict[str, float]] = []

    def begin(self, **gate: object) -> None:
        """A new run with a sound engine, whose gate has seen a little."""
        self.alarms, self.seen = Alarms(), []
        set_gate(self.llm, **gate)
        self.steps(2)
        assert self.alarms.ringing == []

    def steps(self, count: int) -> list[list[str]]:
        """Names of the alarms that each of so many training steps raises."""
        return [self._step() for _ in range(count)]

    def _step(self) -> list[str]:
        before = counters(self.llm.get_metrics())
        generate(self.llm, BATCH, TOKENS, temperature=1.0)
        after = counters(self.llm.get_metrics())
        self.llm.collective_rpc("efficientrollout_load_weights", args=(self._weights,))
        drafted, accepted = (
            after[name] - before.get(name, 0.0)
            for name in ("vllm:spec_decode_num_draft_tokens", "vllm:spec_decode_num_accepted_tokens")
        )
        self.seen.append(step_metrics(before, after) | {DRAFTED: drafted, ACCEPTANCE: accepted / max(drafted, 1.0)})
        return [alarm.name for alarm in self.alarms.observe(self.seen[-1])]


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Training:
    return Training(save_tiny_model(tmp_path_factory.mktemp("model"), hidden=64, sharpness=8.0))


FIXED = {"mode": "fixed", "draft_length": MAX}
AUTO = {"mode": "auto"}


@pytest.mark.parametrize("gate", [FIXED, AUTO], ids=["fixed", "auto"])
def test_none_rings_when_all_is_well(training: Training, gate: dict[str, object]) -> None:
    training.begin(**gate)
    assert training.steps(2 * PATIENCE) == [[]] * (2 * PATIENCE), str(training.seen)


def test_a_machine_that_becomes_slow_is_learned(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    training.begin(**AUTO)
    slow_down(training.llm, monkeypatch)
    assert training.steps(PATIENCE + 1) == [[]] * (PATIENCE + 1), str(training.seen)


@pytest.mark.parametrize(
    ("name", "gate", "causes", "said"),
    [
        ("acceptance", FIXED, [freeze_the_drafter], "drafter frozen at noise, called fresh by every refit"),
        ("behind", FIXED, [forget_the_drafter], "refits that leave the drafter behind"),
        (
            "gate_stuck",
            AUTO,
            [slow_down_drafts, freeze_the_gate_at_its_longest],
            "gate frozen at its longest drafts, which it has learned to be slow",
        ),
        ("cost_model", AUTO, [stop_learning_costs, slow_down], "steps slowed while costs are not learned"),
    ],
)
def test_it_rings(
    training: Training,
    monkeypatch: pytest.MonkeyPatch,
    proof: Proof,
    name: str,
    gate: dict[str, object],
    causes: list[Callable[[LLM, pytest.MonkeyPatch], None]],
    said: str,
) -> None:
    training.begin(**gate)
    for cause in causes:
        training.steps(2)  # what came before is known
        cause(training.llm, monkeypatch)
    raised = training.steps(PATIENCE + 1)
    monkeypatch.undo()
    rang = next((number for number, names in enumerate(raised, 1) if name in names), None)
    proof.row("alarms", alarm=name, cause=said, fires_after=rang, seen_in="metrics of the engine")
    rung = [each for names in raised for each in names]
    assert rung == [name], str(training.seen)
    assert rang is not None
    assert rang <= PATIENCE + 1  # a drafter is left behind by the refit after a rollout
