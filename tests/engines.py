"""The real vLLM engine on tiny models, in this process."""

import gc
import random
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams

from nemo_rl_efficientrollout import engine_kwargs

Prompts = list[dict[str, list[int]]]
MIB = 1 << 20
_alive: list[LLM] = []  # vLLM tears down the process-wide groups of all engines when one is collected


def start(model: Path, settings: dict[str, Any] | None = None, **vllm: Any) -> LLM:
    """An engine on `model`: stock without `settings`, self-speculative with them. float32 and eager by default."""
    arguments: dict[str, Any] = {
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 512,
        "max_num_seqs": 16,
        "skip_tokenizer_init": True,
        "kv_cache_memory_bytes": 64 * MIB,
        "disable_log_stats": False,
    }
    ours = {} if settings is None else engine_kwargs(model, settings)
    _alive.append(LLM(str(model), **(arguments | ours | vllm)))
    return _alive[-1]


def prompts(count: int, vocabulary: int, seed: int = 0, shortest: int = 3, longest: int = 60) -> Prompts:
    """Random token prompts of mixed lengths."""
    rng = random.Random(seed)
    return [
        {"prompt_token_ids": [rng.randrange(vocabulary) for _ in range(rng.randint(shortest, longest))]}
        for _ in range(count)
    ]


def generate(llm: LLM, batch: Prompts, max_tokens: int | list[int], temperature: float = 0.0) -> list[list[int]]:
    """Token ids of one completion per prompt, all of full length."""
    lengths = [max_tokens] * len(batch) if isinstance(max_tokens, int) else max_tokens
    params = [
        SamplingParams(temperature=temperature, max_tokens=length, ignore_eos=True, detokenize=False)
        for length in lengths
    ]
    outputs = llm.generate(batch, params, use_tqdm=False)  # type: ignore[arg-type]
    return [list(output.outputs[0].token_ids) for output in outputs]


def stats(llm: LLM) -> dict[str, Any]:
    return llm.collective_rpc("efficientrollout_stats")[0]


def set_gate(llm: LLM, **gate: Any) -> None:
    llm.collective_rpc("efficientrollout_set_gate", args=(gate,))


def difference(after: dict[str, Any], before: dict[str, Any], key: str) -> int:
    return after[key] - before[key]


def drafted_and_accepted(llm: LLM, before: dict[str, Any]) -> tuple[int, int]:
    """Tokens since `before`, an answer of `stats`."""
    after = stats(llm)
    return difference(after, before, "drafted_tokens"), difference(after, before, "accepted_tokens")


def core_of(llm: LLM) -> Any:
    """vLLM's engine core, reachable because it runs in this process."""
    return llm.llm_engine.engine_core.engine_core  # type: ignore[attr-defined]


def runner_of(llm: LLM) -> Any:
    return core_of(llm).model_executor.driver_worker.worker.model_runner


def worker_state(llm: LLM) -> Any:
    """The worker's SelfSpeculation, for tests that break it on purpose."""
    return runner_of(llm).self_speculation


def release_all() -> None:
    """Give the memory of all engines back. All at once: one that goes takes the process-wide groups with it."""
    while _alive:
        _alive.pop().llm_engine.engine_core.shutdown()
    gc.collect()
