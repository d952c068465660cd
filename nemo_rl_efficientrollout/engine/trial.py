"""A few tokens from the real engine, drafted and verified: run by `efficientrollout doctor` as a process of its own.

Run as `python -m nemo_rl_efficientrollout.engine.trial REQUEST ANSWERS`, both as in `checkup`. REQUEST holds `model`,
a folder with a config.json whose weights are made up here, `settings`, and `enforce_eager`.
"""

import json
import sys
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams

from ..api import engine_kwargs

MIB = 2**20
NEW_TOKENS = 32
PROMPT = list(range(1, 20))


def trial(model: str, settings: dict[str, Any], enforce_eager: bool) -> list[dict[str, Any]]:
    """`efficientrollout_stats` of every worker after one greedy answer of random weights."""
    arguments: dict[str, Any] = {
        "dtype": "bfloat16",
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "enforce_eager": enforce_eager,
        "max_model_len": 256,
        "max_num_seqs": 4,
        "kv_cache_memory_bytes": 64 * MIB,
        "gpu_memory_utilization": 0.1,  # the memory that must be free, as the cache's size is given
        "disable_log_stats": False,
    }
    llm = LLM(model, **(arguments | engine_kwargs(model, settings)))
    try:
        sampling = SamplingParams(temperature=0.0, max_tokens=NEW_TOKENS, ignore_eos=True, detokenize=False)
        llm.generate([{"prompt_token_ids": PROMPT}], sampling, use_tqdm=False)
        return llm.collective_rpc("efficientrollout_stats")
    finally:
        llm.llm_engine.engine_core.shutdown()


if __name__ == "__main__":
    try:
        answer = {"answer": trial(**json.loads(sys.argv[1]))}
    except Exception as error:  # noqa: BLE001 whatever keeps the engine from running is the answer
        answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    Path(sys.argv[2]).write_text(json.dumps({"trial": answer}))
