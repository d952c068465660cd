"""float32, temperature 0: speculation must give the very tokens of plain decoding, whatever happens around it."""

from pathlib import Path
from typing import Any

import pytest
from vllm import LLM, SamplingParams
from vllm.v1.core.sched.scheduler import Scheduler

from tests.engines import difference, generate, prompts, set_gate, start, stats
from tests.models import VOCABULARY, save_tiny_model

pytestmark = pytest.mark.engine
MAX = 8
NEW_TOKENS = 128
BATCH = prompts(64, VOCABULARY)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def plain_tokens(model: Path) -> list[list[int]]:
    return generate(start(model), BATCH, NEW_TOKENS)


@pytest.fixture(scope="module")
def engines(model: Path) -> dict[str, LLM]:
    return {
        format_name: start(model, {"drafter": {"format": format_name}, "draft_length": {"max": MAX}})
        for format_name in ("bf16", "int8")
    }


@pytest.mark.parametrize("draft_length", range(1, MAX + 1))
def test_unquantized_twin_is_exact_and_always_accepted(engines: Any, plain_tokens: Any, draft_length: int) -> None:
    llm = engines["bf16"]
    set_gate(llm, mode="fixed", draft_length=draft_length)
    before = stats(llm)
    assert generate(llm, BATCH, NEW_TOKENS) == plain_tokens
    drafted = difference(stats(llm), before, "drafted_tokens")
    assert drafted > len(BATCH) * NEW_TOKENS * draft_length / (draft_length + 1) * 0.9
    assert difference(stats(llm), before, "accepted_tokens") == drafted


@pytest.mark.parametrize("draft_length", range(1, MAX + 1))
def test_int8_twin_is_exact(engines: Any, plain_tokens: Any, draft_length: int) -> None:
    llm = engines["int8"]
    set_gate(llm, mode="fixed", draft_length=draft_length)
    before = stats(llm)
    assert generate(llm, BATCH, NEW_TOKENS) == plain_tokens
    after = stats(llm)
    # Some drafts must fail, or this shows nothing about rejection.
    assert 0 < difference(after, before, "accepted_tokens") < difference(after, before, "drafted_tokens")


@pytest.mark.parametrize("format_name", ["bf16", "int8"])
def test_draft_length_toggles_at_every_step(engines: Any, plain_tokens: Any, format_name: str) -> None:
    llm = engines[format_name]
    set_gate(llm, mode="random", seed=7)
    before = stats(llm)
    assert generate(llm, BATCH, NEW_TOKENS) == plain_tokens
    after = stats(llm)
    assert difference(after, before, "speculating_steps") < difference(after, before, "decode_steps")
    if format_name == "bf16":
        assert difference(after, before, "accepted_tokens") == difference(after, before, "drafted_tokens")


def test_requests_arrive_and_finish_at_different_times(engines: Any, plain_tokens: Any) -> None:
    llm = engines["int8"]
    set_gate(llm, mode="random", seed=3)
    engine = llm.llm_engine
    lengths = [1 + (37 * index) % NEW_TOKENS for index in range(len(BATCH))]
    waiting, finished = list(enumerate(BATCH)), {}
    steps = 0
    while waiting or engine.has_unfinished_requests():
        if waiting and steps % 3 == 0:
            index, prompt = waiting.pop(0)
            params = SamplingParams(temperature=0.0, max_tokens=lengths[index], ignore_eos=True, detokenize=False)
            engine.add_request(str(index), prompt, params)
        for output in engine.step():
            if output.finished:
                finished[int(output.request_id.split("-")[0])] = list(output.outputs[0].token_ids)
        steps += 1
    assert finished == {i: plain_tokens[i][: lengths[i]] for i in range(len(BATCH))}


@pytest.mark.parametrize("format_name", ["bf16", "int8"])
@pytest.mark.parametrize(
    "vllm",
    [
        pytest.param({"max_num_batched_tokens": 64, "max_num_seqs": 8}, id="chunked-prefill"),
        pytest.param({"enable_prefix_caching": False}, id="no-prefix-cache"),
    ],
)
def test_under_other_engine_settings(model: Path, format_name: str, vllm: dict[str, Any]) -> None:
    batch = prompts(24, VOCABULARY, seed=1, shortest=100, longest=200)
    expected = generate(start(model, **vllm), batch, 48)
    settings = {"drafter": {"format": format_name}, "draft_length": {"max": 4}, "gate": {"mode": "random"}}
    assert generate(start(model, settings, **vllm), batch, 48) == expected


def test_prefix_cache_holds_only_the_policys_keys(engines: Any, model: Path) -> None:
    llm = engines["int8"]
    set_gate(llm, mode="fixed", draft_length=5)
    shared = prompts(1, VOCABULARY, seed=5, shortest=256, longest=256)[0]["prompt_token_ids"]
    tails = prompts(16, VOCABULARY, seed=6, shortest=1, longest=20)
    batch = [{"prompt_token_ids": shared + tail["prompt_token_ids"]} for tail in tails]
    expected = generate(start(model, enable_prefix_caching=False), batch, 100)
    first = generate(llm, batch, 100)
    # The answers now become prompts: their cached blocks were written while drafting.
    longer = [{"prompt_token_ids": [*p["prompt_token_ids"], *t]} for p, t in zip(batch, first, strict=True)]
    params = SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True, detokenize=False)
    outputs = llm.generate(longer, params, use_tqdm=False)  # type: ignore[arg-type]
    assert first == expected
    assert all((output.num_cached_tokens or 0) >= len(shared) for output in outputs)
    again = [list(output.outputs[0].token_ids) for output in outputs]
    assert again == generate(start(model, enable_prefix_caching=False), longer, 40)


@pytest.mark.parametrize("format_name", ["bf16", "int8"])
def test_preemption(model: Path, monkeypatch: pytest.MonkeyPatch, format_name: str) -> None:
    batch = prompts(12, VOCABULARY, seed=2, shortest=100, longest=120)
    expected = generate(start(model), batch, NEW_TOKENS)
    settings = {"drafter": {"format": format_name}, "draft_length": {"max": 5}, "gate": {"mode": "random"}}
    llm = start(model, settings, num_gpu_blocks_override=12, max_num_seqs=12)
    preempted = []
    original = Scheduler._preempt_request

    def count(*args: Any, **kwargs: Any) -> Any:
        preempted.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(Scheduler, "_preempt_request", count)
    assert generate(llm, batch, NEW_TOKENS) == expected
    assert len(preempted) > 2


def test_up_to_max_model_len(model: Path) -> None:
    batch = prompts(8, VOCABULARY, seed=4, shortest=20, longest=90)
    expected = generate(start(model, max_model_len=128), batch, NEW_TOKENS)
    settings = {"drafter": {"format": "bf16"}, "draft_length": {"max": 5}, "gate": {"mode": "fixed", "draft_length": 5}}
    llm = start(model, settings, max_model_len=128)
    assert generate(llm, batch, NEW_TOKENS) == expected
    counts = stats(llm)
    assert counts["accepted_tokens"] == counts["drafted_tokens"]
    # One row near the limit must not stop the others from drafting.
    assert counts["accepted_tokens"] > 0.7 * sum(map(len, expected))
