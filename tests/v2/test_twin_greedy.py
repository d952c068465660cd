"""The twin on the real model runner V2, temperature 0, float32: the very tokens of plain decoding on stock V1.

In a process of its own: `TRITON_INTERPRET=1 python -m pytest tests/v2/test_twin_greedy.py`.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.v2.interpreted import install_or_skip

install_or_skip()  # before anything imports vLLM

from vllm import LLM  # noqa: E402
from vllm.v1.core.sched.scheduler import Scheduler  # noqa: E402

from nemo_rl_efficientrollout.engine import self_test  # noqa: E402
from nemo_rl_efficientrollout.engine.scheduler import AsyncDraftLengthScheduler  # noqa: E402
from nemo_rl_efficientrollout.engine.speculator_v2 import TwinSpeculator  # noqa: E402
from nemo_rl_efficientrollout.engine.workers import Drafters  # noqa: E402
from tests.engines import (  # noqa: E402
    core_of,
    difference,
    drafted_and_accepted,
    generate,
    prompts,
    runner_of,
    set_gate,
    start,
    stats,
    worker_state,
)
from tests.models import save_tiny_model, weights_of  # noqa: E402
from tests.v2 import stock  # noqa: E402

pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::RuntimeWarning")]
VOCABULARY, MAX = 64, 3
CROWDED: dict[str, Any] = {"max_num_seqs": 4, "max_num_batched_tokens": 32, "max_model_len": 128}
"""Fewer slots than requests, and prompts longer than what a step admits."""
BATCH = prompts(7, VOCABULARY)
LENGTHS = [24, 5, 18, 1, 24, 7, 12]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), vocabulary=VOCABULARY, hidden=64)


@pytest.fixture(scope="module")
def expected(model: Path) -> list[list[int]]:
    return stock.greedy(model, BATCH, LENGTHS, **CROWDED)


def start_twin(model: Path, format_name: str, asynchronous: bool = True, **vllm: Any) -> LLM:
    settings = {"drafter": {"format": format_name}, "draft_length": {"max": MAX}, "strict": True}
    return start(model, settings, async_scheduling=asynchronous, **(CROWDED | vllm))


@pytest.fixture(scope="module")
def engines(model: Path) -> dict[str, LLM]:
    return {
        "bf16": start_twin(model, "bf16"),
        "bf16, synchronous": start_twin(model, "bf16", asynchronous=False),
        "int8": start_twin(model, "int8"),
        "int8, synchronous": start_twin(model, "int8", asynchronous=False),
    }


GATES = [{"mode": "fixed", "draft_length": length} for length in range(1, MAX + 1)] + [{"mode": "random", "seed": 5}]


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: "-".join(map(str, gate.values())))
@pytest.mark.parametrize("engine", ["bf16", "bf16, synchronous"])
def test_unquantized_twin_is_exact_and_always_accepted(
    engines: Any, expected: list[list[int]], engine: str, gate: dict[str, Any]
) -> None:
    llm = engines[engine]
    set_gate(llm, **gate)
    before = stats(llm)
    assert generate(llm, BATCH, LENGTHS) == expected
    drafted, accepted = drafted_and_accepted(llm, before)
    assert drafted == accepted
    assert drafted > 0.4 * sum(LENGTHS)


@pytest.mark.parametrize("gate", GATES, ids=lambda gate: "-".join(map(str, gate.values())))
@pytest.mark.parametrize("engine", ["int8", "int8, synchronous"])
def test_quantized_twin_is_exact(engines: Any, expected: list[list[int]], engine: str, gate: dict[str, Any]) -> None:
    llm = engines[engine]
    set_gate(llm, **gate)
    before = stats(llm)
    assert generate(llm, BATCH, LENGTHS) == expected
    drafted, accepted = drafted_and_accepted(llm, before)
    assert accepted < drafted  # some drafts must fail, or this shows nothing about rejection
    assert accepted > 0.8 * drafted  # a draft that goes on from a rejected token is exact too, and seldom accepted


def test_is_the_real_thing(engines: Any) -> None:
    assert isinstance(runner_of(engines["int8"]).speculator, TwinSpeculator)
    assert isinstance(core_of(engines["int8"]).scheduler, AsyncDraftLengthScheduler)


def test_start_up_test_accepts_all(engines: Any) -> None:
    drafted, accepted = self_test.measure(core_of(engines["int8"]))
    assert accepted == drafted > 0
    speculator = runner_of(engines["int8"]).speculator
    assert speculator.model is speculator.state.twin.model


def test_plain_steps_have_no_speculator(
    engines: Any, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = engines["bf16"]
    set_gate(llm, mode="off")
    runner = runner_of(llm)

    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("ran at γ = 0")

    monkeypatch.setattr(runner.speculator, "propose", forbidden)
    monkeypatch.setattr(runner.draft_tokens_handler, "set_draft_tokens", forbidden)
    monkeypatch.setattr(type(runner.rejection_sampler), "__call__", forbidden)
    assert generate(llm, BATCH, LENGTHS) == expected


def test_preemption(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = prompts(6, VOCABULARY, seed=2, shortest=60, longest=100)
    vllm: Any = {"num_gpu_blocks_override": 8, "block_size": 32, "max_num_seqs": 6, "max_model_len": 160}
    wanted = stock.greedy(model, batch, [40] * 6, max_model_len=160)
    llm = start_twin(model, "bf16", **vllm)
    set_gate(llm, mode="random", seed=1)
    preempted = []
    original = Scheduler._preempt_request

    def count(*args: Any, **kwargs: Any) -> Any:
        preempted.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(Scheduler, "_preempt_request", count)
    assert generate(llm, batch, 40) == wanted
    assert len(preempted) > 1


def test_up_to_max_model_len(model: Path) -> None:
    batch = prompts(4, VOCABULARY, seed=4, shortest=20, longest=40)
    wanted = stock.greedy(model, batch, [100] * 4, max_model_len=64)
    llm = start_twin(model, "bf16", max_model_len=64)
    set_gate(llm, mode="fixed", draft_length=3)
    before = stats(llm)
    assert generate(llm, batch, 100) == wanted
    drafted, accepted = drafted_and_accepted(llm, before)
    assert drafted == accepted > 0.5 * sum(map(len, wanted))


@pytest.mark.parametrize("gate", [{"mode": "fixed", "draft_length": 3}, {"mode": "random"}], ids=["3", "random"])
def test_sliding_windows_beside_full_attention(tmp_path: Path, gate: dict[str, Any]) -> None:
    """Layers in two groups of KV caches, each with a block table of its own; contexts outgrow the window."""
    family = save_tiny_model(tmp_path, "gemma3", vocabulary=VOCABULARY, hidden=64)
    batch = prompts(4, VOCABULARY, seed=6, shortest=40, longest=70)
    wanted = stock.greedy(family, batch, [40] * 4, max_model_len=128)
    llm = start_twin(family, "bf16")
    set_gate(llm, **gate)
    before = stats(llm)
    assert generate(llm, batch, 40) == wanted
    drafted, accepted = drafted_and_accepted(llm, before)
    assert drafted == accepted > 0


def test_a_batch_that_is_too_large_is_not_drafted_for(model: Path, expected: list[list[int]]) -> None:
    settings = {"drafter": {"format": "bf16"}, "draft_length": {"max": MAX, "max_requests": 2}}
    llm = start(model, settings | {"gate": {"mode": "fixed", "draft_length": 3}}, async_scheduling=True, **CROWDED)
    assert runner_of(llm).speculator.draft_logits.logits.shape[0] == 2
    before = stats(llm)
    assert generate(llm, BATCH, LENGTHS) == expected
    after = stats(llm)
    timeline = llm.collective_rpc("efficientrollout_timeline")[0]
    assert all(active <= 2 for active, asked in zip(timeline["active"], timeline["asked"], strict=True) if asked)
    assert 0 < difference(after, before, "speculating_steps") < difference(after, before, "decode_steps")


def test_refit(engines: Any, model: Path, tmp_path: Path) -> None:
    new = save_tiny_model(tmp_path, vocabulary=VOCABULARY, hidden=64, seed=1)
    wanted = stock.greedy(new, BATCH, LENGTHS, **CROWDED)
    llm = engines["bf16, synchronous"]
    set_gate(llm, mode="fixed", draft_length=3)
    llm.collective_rpc("efficientrollout_load_weights", args=(weights_of(new),))
    before = stats(llm)
    assert generate(llm, BATCH, LENGTHS) == wanted
    drafted, accepted = drafted_and_accepted(llm, before)
    assert drafted == accepted > 0
    llm.collective_rpc("efficientrollout_load_weights", args=(weights_of(model),))


def test_a_drafter_that_fell_behind_drafts_nothing(engines: Any, expected: list[list[int]]) -> None:
    llm = engines["int8"]
    set_gate(llm, mode="fixed", draft_length=3)
    refit = worker_state(llm).refit
    refit.begin()
    core_of(llm).scheduler.workers_changed()
    before = stats(llm)
    assert generate(llm, BATCH, LENGTHS) == expected
    assert drafted_and_accepted(llm, before) == (0, 0)
    refit.succeed(0.0)
    core_of(llm).scheduler.workers_changed()


def test_one_that_fell_behind_unnoticed_changes_nothing(engines: Any, expected: list[list[int]]) -> None:
    llm = engines["int8"]
    set_gate(llm, mode="fixed", draft_length=3)
    assert core_of(llm).scheduler.may_draft()
    refit = worker_state(llm).refit
    refit.begin()
    before = stats(llm)
    core_of(llm).scheduler._drafters = Drafters(True, 0, 0, 0.0)
    assert generate(llm, BATCH, LENGTHS) == expected
    drafted, accepted = drafted_and_accepted(llm, before)
    assert drafted > 0
    assert accepted < 0.2 * drafted
    refit.succeed(0.0)
