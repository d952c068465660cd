"""The gate inside the engine: what it starts from, what it says, and calibration through the engine itself."""

import logging
import time
from pathlib import Path

import numpy as np
import pytest
from vllm import LLM, SamplingParams

from nemo_rl_efficientrollout.engine.calibrate import calibrate
from nemo_rl_efficientrollout.errors import UserError
from nemo_rl_efficientrollout.gate import AutoGate
from nemo_rl_efficientrollout.gate.calibration import Provenance, from_fit, save
from tests.engines import core_of, generate, prompts, set_gate, start
from tests.models import VOCABULARY, save_tiny_model

pytestmark = pytest.mark.engine
LONGEST = 3
SETTINGS = {"drafter": {"format": "int8"}, "draft_length": {"max": LONGEST}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def llm(model: Path) -> LLM:
    return start(model, SETTINGS)


@pytest.fixture(scope="module")
def calibration(llm: LLM, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibration") / "cal.json"
    done = calibrate(llm, budget_s=4.0)
    save(from_fit(done.fit, done.timings, Provenance(model=model.name)), path)
    return path


def described(llm: LLM) -> dict:
    return llm.collective_rpc("efficientrollout_gate")[0]


def gate_of(llm: LLM) -> AutoGate:
    gate = core_of(llm).scheduler.gate
    assert isinstance(gate, AutoGate)
    return gate


def test_starts_from_probes_and_learns_from_every_step(model: Path) -> None:
    llm = start(model, SETTINGS)
    assert described(llm)["seed"].startswith("probes of ")
    generate(llm, prompts(4, VOCABULARY), 64)
    tracker = gate_of(llm).tracker
    assert tracker is not None
    answer = described(llm)
    assert answer["state"] in {"plain", "speculating", "probing"}
    assert {"step", "batch", "context", "state", "draft_length", "why"} <= set(answer["trace"][0])
    plain = tracker.model.seconds("plain", 4, 80.0)
    assert 1e-4 < plain < 1.0


def test_sees_requests_that_decode_and_their_contexts(llm: LLM) -> None:
    seen = []
    set_gate(llm, mode="auto")
    gate = gate_of(llm)
    choose = gate.choose
    gate.choose = lambda load: seen.append(load) or choose(load)  # type: ignore[method-assign]
    batch = prompts(3, VOCABULARY, shortest=40, longest=40)
    generate(llm, batch, [8, 16, 32])
    batches = [load.batch for load in seen]
    assert batches[0] == 3
    assert batches[-1] == 1
    assert batches == sorted(batches, reverse=True)
    assert seen[0].context == pytest.approx(40, abs=2)
    assert seen[-1].context == pytest.approx(72, abs=2 + LONGEST)


def test_steps_take_all_the_time_between_the_first_and_the_last_but_that_of_questions(llm: LLM) -> None:
    set_gate(llm, mode="fixed", draft_length=2)
    llm.collective_rpc("efficientrollout_timeline")
    sampling = SamplingParams(max_tokens=60, ignore_eos=True, detokenize=False)
    for i, prompt in enumerate(prompts(2, VOCABULARY)):
        llm.llm_engine.add_request(f"request-{i}", prompt, sampling)  # type: ignore[arg-type]
    for step in range(8):
        llm.llm_engine.step()
        time.sleep(0.05)  # a host that is slow with the tokens
        if step == 5:
            llm.collective_rpc("efficientrollout_stats")
    llm.llm_engine.abort_request(["request-0", "request-1"])
    llm.llm_engine.step()
    timeline = llm.collective_rpc("efficientrollout_timeline")[0]
    seconds, between = np.array(timeline["step_seconds"]), np.diff(timeline["seconds"])
    own = [1, 2, 3, 4, 5, 7]
    assert seconds[1:][[i - 1 for i in own]] == pytest.approx(between[[i - 1 for i in own]])
    assert seconds[own].min() > 0.05
    assert seconds[6] < between[5] - 0.05
    assert generate(llm, prompts(1, VOCABULARY), 2)  # after idleness
    assert llm.collective_rpc("efficientrollout_timeline")[0]["step_seconds"][0] < between[0]


def test_calibration_measures_every_kind_of_step_at_several_loads(llm: LLM) -> None:
    done = calibrate(llm, budget_s=3.0)
    kinds = {(timing.draft_length > 0, timing.drafted > 0) for timing in done.timings}
    assert kinds == {(False, False), (False, True), (True, False), (True, True)}
    assert len(done.loads) == len(set(done.loads)) > 2
    assert [(p.requests, p.prompt) for p in done.prefills] == [(load.batch, load.context) for load in done.loads]
    assert all(0 < p.seconds < 1.0 for p in done.prefills)
    assert done.seconds < 20.0
    model = done.fit.model
    assert 0 < model.seconds("plain", 1, 64) < model.seconds("cycle", 1, 64, LONGEST)


def test_starts_from_a_calibration(model: Path, calibration: Path) -> None:
    llm = start(model, SETTINGS | {"gate": {"calibration": str(calibration)}, "strict": True}, max_num_seqs=4)
    assert described(llm)["seed"] == f"calibration {calibration}"
    assert gate_of(llm).tracker is not None
    assert generate(llm, prompts(2, VOCABULARY), 8)


def test_a_gate_that_was_set_aside_goes_on_with_what_it_learned(llm: LLM) -> None:
    set_gate(llm, mode="auto")
    learned = gate_of(llm)
    set_gate(llm, mode="off")
    set_gate(llm, mode="auto")
    assert gate_of(llm) is learned


def test_a_calibration_can_come_while_the_engine_runs(llm: LLM, calibration: Path) -> None:
    set_gate(llm, mode="auto")
    assert described(llm)["seed"].startswith("probes of ")
    set_gate(llm, mode="auto", calibration=str(calibration))
    assert described(llm)["seed"] == f"calibration {calibration}"


@pytest.mark.parametrize("fault", ["missing", "corrupt", "version", "model"])
def test_a_calibration_that_cannot_be_used_is_named(
    model: Path, calibration: Path, tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, text = tmp_path / "cal.json", calibration.read_text()
    if fault == "corrupt":
        path.write_text(text[: len(text) // 2])
    elif fault == "version":
        path.write_text(text.replace('"version": 1', '"version": 99'))
    elif fault == "model":
        path.write_text(text.replace('"model": "model', '"model": "another'))
    settings = SETTINGS | {"gate": {"calibration": str(path)}}
    with pytest.raises(UserError, match=r"cal\.json"):
        start(model, settings | {"strict": True})
    with caplog.at_level(logging.WARNING, logger="vllm.efficientrollout"):
        llm = start(model, settings)
    assert described(llm)["seed"].startswith("probes of ")


def test_a_gate_that_learns_nothing_is_not_probed_for(model: Path) -> None:
    llm = start(model, SETTINGS | {"gate": {"mode": "off"}})
    assert core_of(llm).scheduler._seed is None
    assert described(llm) == {"gate": "FixedGate"}
