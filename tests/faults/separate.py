"""Engines in processes of their own, and a fault in one of them: front end, engine core and worker, as in production.

Run as `python -m tests.faults.separate MODEL NEW_MODEL FAULT…`; prints a line of JSON for each fault.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams

from tests.engines import prompts, start
from tests.faults.drafting import SETTINGS
from tests.faults.observed import error_of
from tests.models import VOCABULARY, weights_of

BATCH = prompts(4, VOCABULARY)
TOKENS = 200


class FaultyWorker:
    """Mixed into vLLM's worker: faults that strike there when the next step comes."""

    model_runner: Any

    def worker_process(self) -> int:
        return os.getpid()

    def hang(self, seconds: float) -> None:
        self._before_next_step(lambda: time.sleep(seconds))

    def fail_in_drafter(self) -> None:
        self._replace("_forward", _explode)

    def fail_in_answers(self) -> None:
        self.efficientrollout_stats = _explode

    def answer_late(self, seconds: float) -> None:
        answer = self.efficientrollout_stats  # type: ignore[has-type]
        self.efficientrollout_stats = lambda: (time.sleep(seconds), answer())[1]

    def load_slowly(self, seconds: float) -> None:
        load = self.model_runner.model.load_weights
        self.model_runner.model.load_weights = lambda *args: (load(*args), time.sleep(seconds))[0]

    def _before_next_step(self, fault: Callable[[], None]) -> None:
        run, due = self.model_runner.execute_model, [fault]

        def execute_model(*args: Any, **kwargs: Any) -> Any:
            while due:
                due.pop()()
            return run(*args, **kwargs)

        self.model_runner.execute_model = execute_model

    def _replace(self, name: str, fault: Callable[..., Any]) -> None:
        setattr(self.model_runner.drafter, name, fault)


def _explode(*_: Any, **__: Any) -> None:
    raise ZeroDivisionError("injected")


def core_process(llm: LLM) -> int:
    return llm.llm_engine.engine_core.resources.engine_manager.processes[0].pid  # type: ignore[attr-defined]


def in_mid_rollout(llm: LLM, strike: Callable[[], Any]) -> dict[str, Any]:
    """Strike when every request has some tokens and none is done; what the caller sees, and after how long."""
    engine = llm.llm_engine
    sampling = SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True, detokenize=False)
    for index, prompt in enumerate(BATCH):
        engine.add_request(str(index), prompt, sampling)  # type: ignore[arg-type]
    tokens: dict[str, list[int]] = {}
    struck = 0.0

    def roll() -> None:
        nonlocal struck
        while engine.has_unfinished_requests():
            tokens.update({o.request_id: list(o.outputs[0].token_ids) for o in engine.step()})  # type: ignore[union-attr]
            if not struck and len(tokens) == len(BATCH) and min(map(len, tokens.values())) >= 8:
                struck = time.monotonic()
                strike()

    error = error_of(roll)
    return {
        "error": error,
        "seconds": time.monotonic() - struck,
        "tokens_before": min(map(len, tokens.values())),
        "tokens": [tokens[str(i)] for i in range(len(BATCH))],
    }


def in_mid_refit(llm: LLM, weights: dict[str, Any]) -> dict[str, Any]:
    """Kill the engine's core while the policy's weights are half in."""
    llm.collective_rpc("load_slowly", args=(30.0,))
    begun = time.monotonic()
    threading.Timer(2.0, lambda: os.kill(core_process(llm), signal.SIGKILL)).start()
    error = error_of(lambda: llm.collective_rpc("efficientrollout_load_weights", args=(weights,)))
    return {"error": error, "seconds": time.monotonic() - begun - 2.0, "tokens_before": 0, "tokens": []}


def seen(fault: str, model: Path, new: Path) -> dict[str, Any]:
    """What the caller of an engine sees of a fault."""
    llm = start(model, SETTINGS, worker_extension_cls="tests.faults.separate.FaultyWorker")
    worker = llm.collective_rpc("worker_process")[0]
    strikes: dict[str, Callable[[], Any]] = {
        "kill core": lambda: os.kill(core_process(llm), signal.SIGKILL),
        "kill worker": lambda: os.kill(worker, signal.SIGKILL),
        "hang": lambda: llm.collective_rpc("hang", args=(1e6,)),
        "drafter": lambda: llm.collective_rpc("fail_in_drafter"),
        "answers fail": lambda: llm.collective_rpc("fail_in_answers"),
        "answers late": lambda: llm.collective_rpc("answer_late", args=(3.0,)),
    }
    try:
        return (
            in_mid_refit(llm, weights_of(new)) if fault == "kill core in refit" else in_mid_rollout(llm, strikes[fault])
        )
    finally:
        llm.llm_engine.engine_core.shutdown()


if __name__ == "__main__":
    models = Path(sys.argv[1]), Path(sys.argv[2])
    for name in sys.argv[3:]:
        print(json.dumps({"fault": name} | seen(name, *models)), flush=True)
