"""The reference: greedy decoding by vLLM's stock CPU runner (V1), in a process that never calls `install`."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any


def greedy(model: Path, batch: Any, lengths: list[int], **vllm: Any) -> list[list[int]]:
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
        return process.submit(_greedy, model, batch, lengths, vllm).result()


def _greedy(model: Path, batch: Any, lengths: list[int], vllm: dict[str, Any]) -> list[list[int]]:
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    from tests.engines import generate, runner_of, start

    llm = start(model, **vllm)
    assert type(runner_of(llm)) is CPUModelRunner
    return generate(llm, batch, lengths)
