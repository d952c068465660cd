"""float32, temperature 0: the tokens of plain decoding, whatever befalls the requests and their engine on the way."""

import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm import LLM, SamplingParams

from tests.engines import Prompts, core_of, generate, prompts, runner_of, set_gate, start, stats, worker_state
from tests.lossless.matrix import gate, settings
from tests.lossless.witness import Witness, watch
from tests.models import VOCABULARY, save_tiny_model, weights_of
from tests.proof import Proof

pytestmark = pytest.mark.engine
NEW_TOKENS = 96
BATCH = prompts(32, VOCABULARY, seed=11)
FORMATS = ["int8", pytest.param("bf16", marks=pytest.mark.full), pytest.param("int4", marks=pytest.mark.full)]
Answers = dict[int, list[int]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return [save_tiny_model(tmp_path_factory.mktemp("model"), seed=seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def engine(models: list[Path]) -> Callable[[str], LLM]:
    """Without a format: decodes plainly, but can be refitted as the others."""

    @cache
    def build(format_name: str | None) -> LLM:
        return start(models[0], settings(format_name or "bf16"))

    return build


@pytest.fixture(scope="module")
def plain_tokens(models: list[Path]) -> list[list[int]]:
    return generate(start(models[0]), BATCH, NEW_TOKENS)


def note(
    proof: Proof, event: str, format_name: str, seen: Witness, right: Answers, given: Answers, **count: int
) -> None:
    ((what, times),) = count.items()
    proof.row(
        "lifecycles",
        event=event,
        format=format_name,
        happened=f"{times} {what.replace('_', ' ')}",
        requests=len(right),
        tokens=sum(map(len, right.values())),
        accepted=round(seen.accepted / seen.drafted, 3),
        differences=sum(given.get(i) != tokens for i, tokens in right.items()),
    )


def greedy(max_tokens: int = NEW_TOKENS) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True, detokenize=False)


def stepping(llm: LLM, answers: Answers) -> Iterator[int]:
    """Steps the engine while it has requests, and yields before each step; fills `answers` on the way."""
    engine, step = llm.llm_engine, 0
    while True:
        yield step
        if not engine.has_unfinished_requests():
            return
        output: Any
        for output in engine.step():
            answers[int(output.request_id)] = list(output.outputs[0].token_ids)
        step += 1


def add(llm: LLM, index: int, batch: Prompts, max_tokens: int = NEW_TOKENS) -> None:
    llm.llm_engine.add_request(str(index), batch[index], greedy(max_tokens))  # type: ignore[arg-type]


@pytest.mark.parametrize("format_name", FORMATS)
def test_requests_arrive_and_finish_at_different_times(
    engine: Any, plain_tokens: Any, format_name: str, proof: Proof
) -> None:
    llm, given = engine(format_name), {}
    set_gate(llm, **gate("random"))
    right = {i: tokens[: 1 + 37 * i % NEW_TOKENS] for i, tokens in enumerate(plain_tokens)}
    arrivals = 0
    with watch(llm) as seen:
        for step in stepping(llm, given):
            while arrivals < len(BATCH) and 3 * arrivals <= step + 9:
                add(llm, arrivals, BATCH, len(right[arrivals]))
                arrivals += 1
    note(proof, "arrivals and ends at different times", format_name, seen, right, given, arrivals=arrivals)
    assert given == right
    assert seen.capped_inside
    assert seen.rejected or format_name == "bf16"


@pytest.mark.parametrize("format_name", FORMATS)
def test_aborts_in_flight(engine: Any, plain_tokens: Any, format_name: str, proof: Proof) -> None:
    """What is left of an aborted request is the beginning of its answer; the others do not notice."""
    llm, given, rng, aborted = engine(format_name), {}, random.Random(0), []
    set_gate(llm, **gate("random"))
    free = core_of(llm).scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
    with watch(llm) as seen:
        for index in range(len(BATCH)):
            add(llm, index, BATCH)
        for step in stepping(llm, given):
            running = [i for i, tokens in given.items() if len(tokens) < NEW_TOKENS and i not in aborted]
            if step >= 2 and running and len(aborted) < len(BATCH) // 2:
                aborted.append(rng.choice(running))
                llm.llm_engine.abort_request([str(aborted[-1])])
    right = {i: plain_tokens[i][: len(given[i])] if i in aborted else plain_tokens[i] for i in range(len(BATCH))}
    note(proof, "aborts in flight", format_name, seen, right, given, aborts=len(aborted))
    assert given == right
    assert len(aborted) == len(BATCH) // 2
    assert core_of(llm).scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == free


@pytest.mark.parametrize("format_name", FORMATS)
def test_preemption_and_recompute(models: list[Path], format_name: str, proof: Proof) -> None:
    batch = prompts(12, VOCABULARY, seed=2, shortest=100, longest=120)
    right = dict(enumerate(generate(start(models[0]), batch, NEW_TOKENS)))
    llm = start(models[0], settings(format_name), num_gpu_blocks_override=12, max_num_seqs=12)
    set_gate(llm, **gate("random"))
    with watch(llm) as seen:
        given = dict(enumerate(generate(llm, batch, NEW_TOKENS)))
    note(proof, "too little memory", format_name, seen, right, given, preemptions=seen.preempted)
    assert given == right
    assert seen.preempted > 2


def refit(llm: LLM, model: Path) -> None:
    llm.collective_rpc("efficientrollout_load_weights", args=(weights_of(model),))


@pytest.mark.parametrize("format_name", FORMATS)
def test_refit_in_flight(models: list[Path], engine: Any, format_name: str, proof: Proof) -> None:
    """Requests go on with the keys and values of the old weights. Plain decoding gives the same answers if each of its
    requests has as many tokens at the refit."""
    batch, llm, given, at_refit = BATCH[:16], engine(format_name), {}, {}
    set_gate(llm, **gate("random"))
    refit(llm, models[0])
    with watch(llm) as seen:
        for index in range(len(batch)):
            add(llm, index, batch)
        for step in stepping(llm, given):
            if step == 12:
                at_refit = {i: len(tokens) for i, tokens in given.items()}
                refit(llm, models[1])
                refitted = stats(llm)
    assert stats(llm)["accepted_tokens"] > refitted["accepted_tokens"]  # the new drafter drafts

    plainly, right, refit_after = engine(None), {}, max(at_refit.values())
    refit(plainly, models[0])
    for step in stepping(plainly, right):
        for index in range(len(batch)):
            if step == refit_after - at_refit[index]:
                add(plainly, index, batch)
        if step == refit_after:
            assert {i: len(tokens) for i, tokens in right.items()} == at_refit
            refit(plainly, models[1])
    note(proof, "refit in flight", format_name, seen, right, given, refit=1)
    assert given == right
    assert len(set(at_refit.values())) > 1 or format_name == "bf16"  # whose drafts are all accepted


@pytest.mark.parametrize("format_name", FORMATS)
def test_refit_in_flight_with_recomputed_keys(models: list[Path], engine: Any, format_name: str, proof: Proof) -> None:
    """Every request is preempted, drafts pending, and goes on as if its tokens were the new policy's prompt."""
    batch, llm, given, at_refit = BATCH[:16], engine(format_name), {}, {}
    set_gate(llm, **gate("random"))
    refit(llm, models[0])
    with watch(llm) as seen:
        for index in range(len(batch)):
            add(llm, index, batch)
        for step in stepping(llm, given):
            if step == 12:
                at_refit = dict(given)
                refit(llm, models[1])
                core_of(llm).reset_prefix_cache(reset_running_requests=True)
    so_far = [{"prompt_token_ids": [*p["prompt_token_ids"], *at_refit[i]]} for i, p in enumerate(batch)]
    left = [NEW_TOKENS - len(tokens) for tokens in at_refit.values()]
    new = generate(start(models[1]), so_far, [left[i] for i in range(len(batch))])
    right = {i: at_refit[i] + tokens for i, tokens in enumerate(new)}
    note(proof, "refit in flight, keys recomputed", format_name, seen, right, given, preemptions=seen.preempted)
    assert given == right
    assert seen.preempted == len(batch)


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("format_name", FORMATS)
def test_sleep_and_wake(
    models: list[Path], engine: Any, plain_tokens: Any, format_name: str, level: int, proof: Proof
) -> None:
    """vLLM on CPU keeps what it should give back: what a GPU would have forgotten is overwritten here."""
    llm = engine(format_name)
    set_gate(llm, **gate(2))
    refit(llm, models[0])
    generate(llm, BATCH, 8)  # keys and values that must not be found after waking
    llm.sleep(level)
    forget(llm, policy=level == 2)
    llm.wake_up()
    if level == 2:
        refit(llm, models[0])
    with watch(llm) as seen:
        given = dict(enumerate(generate(llm, BATCH, NEW_TOKENS)))
    right = dict(enumerate(plain_tokens))
    note(proof, f"sleep of level {level}", format_name, seen, right, given, sleep=1)
    assert given == right
    assert seen.accepted > seen.drafted / 2


def forget(llm: LLM, policy: bool) -> None:
    """Overwrite what sleep frees: the drafter, keys and values, and from level 2 on the policy."""
    with torch.inference_mode():
        for cache_of_layer in runner_of(llm).kv_caches:
            cache_of_layer.fill_(100.0)  # not NaN: attention multiplies what it masks by 0
        for tensor in worker_state(llm).twin.tensors():
            tensor.zero_()
        for parameter in runner_of(llm).model.parameters() if policy else ():
            parameter.fill_(float("nan"))


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize(
    ("name", "vllm"),
    [
        ("chunked prefill", {"max_num_batched_tokens": 64, "max_num_seqs": 8}),
        ("no prefix cache", {"enable_prefix_caching": False}),
    ],
)
def test_other_engine_settings(
    models: list[Path], format_name: str, name: str, vllm: dict[str, Any], proof: Proof
) -> None:
    batch = prompts(24, VOCABULARY, seed=1, shortest=100, longest=200)
    right = dict(enumerate(generate(start(models[0], **vllm), batch, 48)))
    llm = start(models[0], settings(format_name), **vllm)
    set_gate(llm, **gate("random"))
    with watch(llm) as seen:
        given = dict(enumerate(generate(llm, batch, 48)))
    note(proof, name, format_name, seen, right, given, prompts=len(batch))
    assert given == right
    assert seen.accepted


@pytest.mark.parametrize("format_name", FORMATS)
def test_prefix_cache_holds_only_the_policys_keys(
    models: list[Path], engine: Any, format_name: str, proof: Proof
) -> None:
    """Answers become prompts: their cached blocks were written while drafting."""
    llm = engine(format_name)
    set_gate(llm, **gate(5))
    refit(llm, models[0])
    shared = prompts(1, VOCABULARY, seed=5, shortest=256, longest=256)[0]["prompt_token_ids"]
    tails = prompts(16, VOCABULARY, seed=6, shortest=1, longest=20)
    batch = [{"prompt_token_ids": shared + tail["prompt_token_ids"]} for tail in tails]
    uncached = start(models[0], enable_prefix_caching=False)
    with watch(llm) as seen:
        first = generate(llm, batch, 120)
        longer = [{"prompt_token_ids": [*p["prompt_token_ids"], *t]} for p, t in zip(batch, first, strict=True)]
        outputs = llm.generate(longer, greedy(40), use_tqdm=False)  # type: ignore[arg-type]
    given = {
        i: [*tokens, *output.outputs[0].token_ids]
        for i, (tokens, output) in enumerate(zip(first, outputs, strict=True))
    }
    right = dict(enumerate(generate(uncached, batch, 120)))
    right = {i: right[i] + tokens for i, tokens in enumerate(generate(uncached, longer, 40))}
    cached = sum(output.num_cached_tokens or 0 for output in outputs)
    note(proof, "answers become prompts", format_name, seen, right, given, cached_tokens=cached)
    assert given == right
    assert cached > len(longer) * len(shared)


@pytest.mark.parametrize("format_name", FORMATS)
def test_up_to_max_model_len(models: list[Path], format_name: str, proof: Proof) -> None:
    batch = prompts(16, VOCABULARY, seed=4, shortest=20, longest=90)
    right = dict(enumerate(generate(start(models[0], max_model_len=128), batch, 128)))
    llm = start(models[0], settings(format_name), max_model_len=128)
    set_gate(llm, **gate(5))
    with watch(llm) as seen:
        given = dict(enumerate(generate(llm, batch, 128)))
    note(proof, "max_model_len inside a draft", format_name, seen, right, given, times=seen.capped_by_draft)
    assert given == right
    assert seen.capped_by_draft
    # One row near the limit must not stop the others from drafting.
    assert seen.accepted > 0.6 * sum(map(len, right.values()))
