"""The real engine while clocks jump and steps hang."""

import time
from pathlib import Path
from typing import Any

import pytest
from vllm import LLM

from tests.engines import core_of, generate, prompts, runner_of, set_gate, start, stats
from tests.faults.drafting import FRESH, GAMMA, SETTINGS, drafts_of
from tests.faults.jumps import jumping_clocks
from tests.faults.observed import note
from tests.models import VOCABULARY, save_tiny_model, weights_of
from tests.proof import Proof

pytestmark = pytest.mark.engine
BATCH = prompts(4, VOCABULARY)
TOKENS = 150


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def llm(model: Path) -> LLM:
    return start(model, SETTINGS | {"gate": {"mode": "auto"}})


@pytest.fixture(scope="module")
def expected(llm: LLM) -> list[list[int]]:
    set_gate(llm, mode="off")
    return generate(llm, BATCH, TOKENS)


def predicted(llm: LLM) -> float:
    """Seconds of a plain step at this load, as the gate believes."""
    from nemo_rl_efficientrollout.gate import Load

    gate = core_of(llm).scheduler._auto
    return float((gate._terms(Load(len(BATCH), 100.0)) @ gate.tracker.mean)[0])


def times_of(llm: LLM, timeline: dict[str, list[float]]) -> tuple[bool, float]:
    """Whether no time of ledger, timeline and statistics is negative; and the longest step."""
    ledger = core_of(llm).scheduler.ledger
    sums = (ledger.gated_seconds, ledger.promised_seconds, ledger.ideal_seconds, stats(llm)["requantize_seconds"])
    in_order = timeline["seconds"] == sorted(timeline["seconds"])
    return in_order and min(*sums, *timeline["seconds"], *timeline["step_seconds"]) >= 0.0, max(
        timeline["step_seconds"]
    )


def test_clocks_that_jump_by_hours(llm: LLM, model: Path, expected: Any, proof: Proof) -> None:
    set_gate(llm, mode="auto")
    for _ in range(2):
        generate(llm, BATCH, TOKENS)
    before = predicted(llm)
    llm.collective_rpc("efficientrollout_timeline")
    with jumping_clocks() as jumps:
        core_of(llm).collective_rpc("efficientrollout_load_weights", args=(weights_of(model),))
        tokens = [generate(llm, BATCH, TOKENS) for _ in range(3)]
    timeline = llm.collective_rpc("efficientrollout_timeline")[0]
    chosen = {*timeline["draft_length"], *timeline["asked"]}
    sound, longest = times_of(llm, timeline)
    generate(llm, BATCH, TOKENS)
    after = predicted(llm)
    right = all(t == expected for t in tokens)
    recovered = drafts_of(llm, BATCH, expected)
    note(
        proof, f"clocks jump {len(jumps)} times by up to {max(map(abs, jumps)):.0f} hours", "engine, 3 rollouts",
        "right tokens; γ within limits; cost model as before; no negative time",
        f"{'right' if right else 'wrong'} tokens; γ {min(chosen)} to {max(chosen)}; predicted plain step"
        f" {1e3 * before:.1f} ms before, {1e3 * after:.1f} ms after; longest step {longest:.0f} s;"
        f" negative times: {'none' if sound else 'some'}; {recovered}",
        right and len(jumps) >= 4 and chosen <= set(range(GAMMA + 1)) and sound and 0.2 < after / before < 5.0
        and recovered == FRESH,
    )  # fmt: skip


def test_a_step_that_takes_a_thousand_times_as_long(
    llm: LLM, expected: Any, monkeypatch: pytest.MonkeyPatch, proof: Proof
) -> None:
    set_gate(llm, mode="auto")
    for _ in range(2):
        generate(llm, BATCH, TOKENS)
    gate, runner, before = core_of(llm).scheduler._auto, runner_of(llm), predicted(llm)
    restarts, spent = gate.tracker.restarts, gate.probing._credit
    run, count, hang = runner.execute_model, iter(range(10**6)), 1000 * before

    def execute_model(*args: Any, **kwargs: Any) -> Any:
        if next(count) == 20:
            time.sleep(hang)
        return run(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "execute_model", execute_model)
        llm.collective_rpc("efficientrollout_timeline")
        tokens = generate(llm, BATCH, TOKENS)
    sound, longest = times_of(llm, llm.collective_rpc("efficientrollout_timeline")[0])
    after, credit = predicted(llm), gate.probing._credit - spent
    right = "right" if tokens == expected else "wrong"
    note(
        proof, "a step takes 1000 times as long", "engine, in mid-rollout", "an outlier: cost model as before",
        f"{right} tokens; the step took {longest / before:.0f} plain steps; predicted plain step {1e3 * before:.2f} ms"
        f" before, {1e3 * after:.2f} ms after; new starts of the model: {gate.tracker.restarts - restarts}",
        right == "right" and sound and longest > 900 * before and 0.4 < after / before < 2.5 and credit < 10 * before,
    )  # fmt: skip
