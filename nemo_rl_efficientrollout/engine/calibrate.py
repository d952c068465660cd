"""A cost model of this engine, measured through the engine itself: lm_head, sampling and host time included.

Rollouts of random prompts run with a new γ at every step, so that drafting and verifying occur in every combination.
Which batch sizes and context lengths to visit is the tool's own choice: each time the load whose steps narrow the
predictions most for the seconds that they are expected to take.
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams

from ..api import engine_kwargs
from ..gate.action import actions
from ..gate.cost_model import CostModel
from ..gate.design import gains
from ..gate.fit import Fit, fit
from ..gate.step import Load
from ..gate.timing import Prefill, Timing

STEPS, PLAIN_STEPS = 24, 8
"""Steps wanted of each load: with a new γ each, and plain ones first, which random lengths rarely hold."""
WARM_UP = 2
"""Steps dropped at the start of each load."""
CONTEXTS = (32, 128, 512, 2048, 8192, 32768)


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A fit and what it was made from."""

    fit: Fit
    timings: list[Timing]
    prefills: list[Prefill]
    """One of each load, for the simulator: the gate has no use for them."""
    loads: list[Load]
    seconds: float


def open_engine(model: Path, settings: Any, **vllm: Any) -> LLM:
    """An engine to calibrate: with the drafter that the settings name, its gate off. Raises UserError."""
    block = {**settings, "gate": {"mode": "off"}, "strict": True}
    return LLM(str(model), skip_tokenizer_init=True, **engine_kwargs(model, block), **vllm)


def calibrate(
    llm: LLM, budget_s: float = 60.0, progress: Callable[[Load, float], None] = lambda load, spent: None
) -> Calibrated:
    """Measure `llm`, an engine made with `engine_kwargs`, for about `budget_s` seconds and fit a cost model.

    Leaves the gate off: set the one that you want afterwards.
    """
    started = time.perf_counter()
    longest = _max_draft_length(llm)
    candidates = _loads(llm, longest)
    timings: list[Timing] = []
    prefills: list[Prefill] = []
    visited: list[Load] = []
    fitted: Fit | None = None
    while True:
        spent = time.perf_counter() - started
        load = _next(candidates, visited, fitted, longest, budget_s - spent)
        if load is None:
            break
        progress(load, spent)
        measured, prefill = _measure(llm, load, longest, seed=len(visited))
        timings += measured
        prefills.append(prefill)
        visited.append(load)
        fitted = fit(timings)
    llm.collective_rpc("efficientrollout_set_gate", args=({"mode": "off"},))
    assert fitted is not None
    return Calibrated(fitted, timings, prefills, visited, time.perf_counter() - started)


def _max_draft_length(llm: LLM) -> int:
    return llm.llm_engine.vllm_config.speculative_config.num_speculative_tokens  # type: ignore[union-attr]


def _loads(llm: LLM, longest: int) -> list[Load]:
    """Loads that the engine can hold: powers of two of requests, a few context lengths."""
    config = llm.llm_engine.vllm_config
    most, room = config.scheduler_config.max_num_seqs, config.model_config.max_model_len - _new_tokens(longest)
    tokens = (config.cache_config.num_gpu_blocks or 0) * config.cache_config.block_size
    batches = [size for size in (2**i for i in range(20)) if size < most] + [most]
    return [
        Load(batch, float(context))
        for batch in batches
        for context in CONTEXTS
        if context <= room and batch * (context + _new_tokens(longest)) <= tokens
    ]


def _new_tokens(longest: int) -> int:
    """Tokens per request that take about `STEPS` steps at a mean γ of half the longest."""
    return (STEPS + WARM_UP) * (1 + longest // 2)


def _next(candidates: list[Load], visited: list[Load], fitted: Fit | None, longest: int, left: float) -> Load | None:
    """The affordable load that teaches most per second; the smallest two first, they are cheap and set the scale."""
    fresh = [load for load in candidates if load not in visited]
    if fitted is None or len(visited) < 2:
        return min(fresh, key=lambda load: (load.context, load.batch), default=None)
    model = fitted.model
    acts = actions(tuple(range(longest + 1)))
    best, best_rate = None, 0.0
    for load in fresh:
        cost = _expected_seconds(model, load, longest)
        if cost > left:
            continue
        gain = float(gains(model, list(model.terms.cycles(*load, acts)), candidates, acts).sum())
        if gain / cost > best_rate:
            best, best_rate = load, gain / cost
    return best


def _expected_seconds(model: CostModel, load: Load, longest: int) -> float:
    """Prefill as one GEMM over all prompt tokens, then steps of a middling γ."""
    prefill = model.seconds("plain", load.batch * int(load.context), 0.0)
    plain = (PLAIN_STEPS + WARM_UP) * model.seconds("plain", load.batch, load.context)
    return prefill + plain + (STEPS + WARM_UP) * model.seconds("cycle", load.batch, load.context, max(longest // 2, 1))


def _measure(llm: LLM, load: Load, longest: int, seed: int) -> tuple[list[Timing], Prefill]:
    """Decode at one load, plainly and with random draft lengths; returns the steps of both, and the first's prefill."""
    chance = random.Random(seed)
    vocabulary = llm.llm_engine.model_config.get_vocab_size()
    prompts: Any = [
        {"prompt_token_ids": [chance.randrange(vocabulary) for _ in range(int(load.context))]}
        for _ in range(load.batch)
    ]
    llm.reset_prefix_cache()  # these may be the prompts of an earlier calibration
    started = time.perf_counter()
    plain = _run(llm, prompts, {"mode": "off"}, PLAIN_STEPS + WARM_UP)
    seconds = time.perf_counter() - started
    mixed = _run(llm, prompts, {"mode": "random", "seed": seed}, _new_tokens(longest))
    prefill = Prefill(load.batch, int(load.context), seconds - _decoding(plain))
    return [*_timings(plain, load), *_timings(mixed, load)], prefill


def _run(llm: LLM, prompts: Any, gate: dict[str, Any], tokens: int) -> list[dict[str, Any]]:
    """The steps, as the ledger has them."""
    llm.collective_rpc("efficientrollout_set_gate", args=(gate,))
    llm.collective_rpc("efficientrollout_timeline")
    sampling = SamplingParams(temperature=1.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
    llm.generate(prompts, sampling, use_tqdm=False)
    timeline = llm.collective_rpc("efficientrollout_timeline")[0]
    return [dict(zip(timeline, values, strict=True)) for values in zip(*timeline.values(), strict=True)]


def _decoding(rows: list[dict[str, Any]]) -> float:
    """Seconds of the steps that did nothing else."""
    return sum(row["step_seconds"] for row in rows if row["decode_only"])


def _timings(rows: list[dict[str, Any]], load: Load) -> Iterator[Timing]:
    context, steps = load.context, 0
    for row, after in pairwise(rows):
        context += 1.0 + row["accepted"] / row["active"]
        if not row["decode_only"] or row["active"] != load.batch or after["active"] != load.batch:
            continue
        steps += 1
        if steps > WARM_UP:
            drafted = after["draft_length"]  # what the step really drafted
            yield Timing("step", load.batch, context, row["draft_length"], row["step_seconds"], drafted=drafted)
