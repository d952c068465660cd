"""Our totals reach whoever reads vLLM's metrics, from an engine in this process and from one in another."""

import asyncio
from pathlib import Path

import pytest
from vllm import LLM, SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.metrics.reader import get_metrics_snapshot

from nemo_rl_efficientrollout import engine_kwargs
from nemo_rl_efficientrollout.engine.metrics import counters
from nemo_rl_efficientrollout.engine.totals import PREFIX
from nemo_rl_efficientrollout.nemo_rl.metrics import step_metrics
from tests.engines import MIB, difference, generate, prompts, set_gate, start, stats, worker_state
from tests.models import VOCABULARY, save_tiny_model, weights_of

pytestmark = pytest.mark.engine
MAX = 3
SETTINGS = {"drafter": {"format": "bf16"}, "draft_length": {"max": MAX}}
FIXED = SETTINGS | {"gate": {"mode": "fixed", "draft_length": MAX}}
BATCH = prompts(3, VOCABULARY)
TOKENS = 21


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def llm(model: Path) -> LLM:
    return start(model, FIXED)


def test_one_rollout_in_this_process(llm: LLM, model: Path) -> None:
    generate(llm, BATCH, TOKENS)
    start_counters, before = counters(llm.get_metrics()), stats(llm)
    llm.collective_rpc("efficientrollout_load_weights", args=(weights_of(model),))
    generate(llm, BATCH, TOKENS)
    after = stats(llm)
    found = step_metrics(start_counters, counters(llm.get_metrics()))
    steps = difference(after, before, "decode_steps")
    assert found["efficientrollout/speculating_fraction"] == difference(after, before, "speculating_steps") / steps
    for position in range(1, MAX + 1):
        assert found[f"efficientrollout/acceptance_by_position/{position}"] == 1.0  # it is the policy itself
    drafted, drafts = difference(after, before, "drafted_tokens"), difference(after, before, "drafts")
    assert found["efficientrollout/draft_length_mean"] == pytest.approx(drafted / drafts)
    assert found["efficientrollout/drafter_version_lag"] == found["efficientrollout/engines_behind"] == 0.0
    assert found["refit/requantize_s"] == pytest.approx(after["requantize_seconds"], abs=1e-6)
    for name in ("predicted_speedup", "regret_estimate", "measured_over_predicted"):
        assert f"efficientrollout/{name}" not in found  # a fixed gate predicts nothing
    assert found["efficientrollout/engines_without_cost_model"] == 0.0  # and needs no model


def test_a_rollout_without_drafts_is_reported(llm: LLM) -> None:
    set_gate(llm, mode="off")
    before = counters(llm.get_metrics())
    generate(llm, BATCH, TOKENS)
    found = step_metrics(before, counters(llm.get_metrics()))
    set_gate(llm, mode="fixed", draft_length=MAX)
    assert found["efficientrollout/speculating_fraction"] == 0.0
    assert "efficientrollout/draft_length_mean" not in found


def test_a_drafter_that_fell_behind_is_reported(llm: LLM, model: Path) -> None:
    before = counters(llm.get_metrics())
    worker_state(llm).begin_refit(whole=True)
    stats(llm)  # anything asked of the workers lets the scheduler ask how they are
    generate(llm, BATCH, TOKENS)
    found = step_metrics(before, counters(llm.get_metrics()))
    assert found["efficientrollout/engines_behind"] == 1.0
    assert found["efficientrollout/drafter_version_lag"] == 1.0
    assert found["efficientrollout/speculating_fraction"] == 0.0
    llm.collective_rpc("efficientrollout_load_weights", args=(weights_of(model),))


def test_a_gate_that_measures_tells_what_it_expects(llm: LLM) -> None:
    set_gate(llm, mode="auto")
    before = counters(llm.get_metrics())
    generate(llm, BATCH, 4 * TOKENS)
    found = step_metrics(before, counters(llm.get_metrics()))
    assert found["efficientrollout/predicted_speedup"] > 0.2
    assert found["efficientrollout/regret_estimate"] >= 0.0
    assert 0.0 < found["efficientrollout/break_even"] <= 1.0
    set_gate(llm, mode="fixed", draft_length=MAX)


def test_of_two_engines_in_one_process_the_later_is_heard(llm: LLM, model: Path) -> None:
    second = start(model, FIXED)
    generate(llm, BATCH, TOKENS)
    assert f"{PREFIX}decode_steps" not in counters(llm.get_metrics())  # as with vLLM's own metrics
    generate(second, BATCH, TOKENS)
    assert counters(second.get_metrics())[f"{PREFIX}decode_steps"] == stats(second)["decode_steps"]


def test_from_an_engine_in_another_process(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    arguments = AsyncEngineArgs(
        model=str(model),
        dtype="float32",
        enforce_eager=True,
        max_model_len=512,
        max_num_seqs=16,
        skip_tokenizer_init=True,
        kv_cache_memory_bytes=64 * MIB,
        **engine_kwargs(model, FIXED),
    )

    async def rollout() -> dict[str, float]:
        engine = AsyncLLM.from_engine_args(arguments)
        try:
            sampling = SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True, detokenize=False)

            async def one(number: int) -> None:
                async for _ in engine.generate(BATCH[number], sampling, str(number)):  # type: ignore[arg-type]
                    pass

            await asyncio.gather(*(one(number) for number in range(len(BATCH))))
            return step_metrics({}, counters(get_metrics_snapshot()))
        finally:
            engine.shutdown()

    found = asyncio.run(rollout())
    assert found["efficientrollout/acceptance_by_position/1"] == 1.0
    assert 0.5 < found["efficientrollout/speculating_fraction"] < 1.0
    assert found["efficientrollout/engines_behind"] == 0.0
