"""An engine in processes of its own, a fault in one of them, and the engine after it.

Front end, engine core and worker are three processes, as in production. Run as `python -m tests.faults.separate FAULT
MODEL NEW_MODEL`; prints one JSON object as its last line.
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

from tests.engines import generate, prompts, set_gate, start
from tests.faults.drafting import SETTINGS, drafts_of
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


def new_engine(model: Path) -> LLM:
    return start(
        model, SETTINGS, worker_extension_cls=f"{__name__.replace('__main__', 'tests.faults.separate')}.FaultyWorker"
    )


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


def main(fault: str, model: Path, new: Path) -> dict[str, Any]:
    llm = new_engine(model)
    worker = llm.collective_rpc("worker_process")[0]
    strikes: dict[str, Callable[[], Any]] = {
        "kill core": lambda: os.kill(core_process(llm), signal.SIGKILL),
        "kill worker": lambda: os.kill(worker, signal.SIGKILL),
        "hang": lambda: llm.collective_rpc("hang", args=(1e6,)),
        "drafter": lambda: llm.collective_rpc("fail_in_drafter"),
        "answers fail": lambda: llm.collective_rpc("fail_in_answers"),
        "answers late": lambda: llm.collective_rpc("answer_late", args=(3.0,)),
    }
    refit = fault == "kill core in refit"
    seen = in_mid_refit(llm, weights_of(new)) if refit else in_mid_rollout(llm, strikes[fault])
    llm.llm_engine.engine_core.shutdown()
    again = new_engine(model)
    set_gate(again, mode="off")
    plain = generate(again, BATCH, TOKENS)
    seen["right"] = seen["tokens"] == plain
    seen["recovered"] = drafts_of(again, BATCH, plain)
    again.llm_engine.engine_core.shutdown()
    del seen["tokens"]
    return seen


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))))
