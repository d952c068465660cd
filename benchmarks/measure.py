"""Engines in this process, and step times of requests that do nothing but decode."""

import gc
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm import LLM

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the step is ours to time, and no process boundary hides host cost
    "VLLM_LOGGING_LEVEL": "ERROR",  # its start-up warnings would bury the table
    "HF_HUB_OFFLINE": "1",
}
"""Set before vLLM is imported, unless the user has set them."""

KV_CACHE_BYTES = 1 << 28
"""Per engine, and far more than the longest run needs."""

PROMPT = 32
"""Prompt tokens of every request: short, as the decode steps are what is measured."""


@dataclass(frozen=True)
class StepTime:
    """One call of the engine's `step()`."""

    seconds: float
    tokens: int
    """Tokens that came out, over all requests."""


@dataclass
class Block:
    """Consecutive decode steps of one engine with a constant number of requests."""

    steps: list[StepTime] = field(default_factory=list)

    @property
    def median_seconds(self) -> float:
        return median(step.seconds for step in self.steps)

    @property
    def tokens_per_second(self) -> float:
        return sum(s.tokens for s in self.steps) / sum(s.seconds for s in self.steps)


class Decoder:
    """Drives one engine step by step."""

    def __init__(self, llm: "LLM", vocabulary: int, temperature: float = 1.0, prompt: int = PROMPT):
        self.llm = llm
        self.prompt = prompt
        """Tokens of every request's prompt."""
        self._engine: Any = llm.llm_engine
        self._vocabulary = vocabulary
        self._temperature = temperature
        self._started = 0
        self._requests: list[str] = []

    @property
    def core(self) -> Any:
        """vLLM's engine core, reachable because it runs in this process."""
        return self._engine.engine_core.engine_core

    def start(self, requests: int, longest: int, seed: int = 0) -> None:
        """Add `requests` prompts that may grow by `longest` tokens, and step until all of them decode."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        chance = random.Random(seed)
        params = SamplingParams(
            temperature=self._temperature,
            max_tokens=longest,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
        for _ in range(requests):
            name = f"request-{self._started}"
            self._started += 1
            tokens = [chance.randrange(self._vocabulary) for _ in range(self.prompt)]
            self._engine.add_request(name, {"prompt_token_ids": tokens}, params)
            self._requests.append(name)
        decoding: set[str] = set()
        while len(decoding) < requests:
            decoding |= {output.request_id for output in self._engine.step()}

    def step(self) -> StepTime:
        """One engine step. Raises RuntimeError when a request ended: the batch would be smaller than it says."""
        started = time.perf_counter()
        outputs = self._engine.step()
        while not outputs and self._engine.has_unfinished_requests():  # with asynchronous scheduling, one step later
            outputs = self._engine.step()
        seconds = time.perf_counter() - started
        if len(outputs) != len(self._requests) or any(output.finished for output in outputs):
            raise RuntimeError(
                f"{len(outputs)} of {len(self._requests)} requests answered, or one ended, in a timed step"
            )
        return StepTime(seconds, sum(len(output.outputs[0].token_ids) for output in outputs))

    def stop(self) -> None:
        """Abort all requests and make sure that they are gone: leftovers would make the next batch larger."""
        self._engine.abort_request(self._requests)
        self._requests = []
        while self._engine.has_unfinished_requests():
            self._engine.step()
        left = self.core.scheduler.get_num_unfinished_requests()
        if left:
            raise RuntimeError(f"{left} aborted requests still decode")

    def decode(self, requests: int, *, warm_up: int, steps: int = 0, tokens: int = 0) -> Block:
        """A block of `steps` steps, or of as many as produce `tokens` tokens per request.

        Garbage of earlier blocks is collected first, so that none is collected in this one's name.
        """
        budget = 2 * tokens + (warm_up + steps + 2) * 33  # 33: a step's most tokens, draft and bonus
        self.start(requests, longest=min(budget, self.room))
        for _ in range(warm_up):
            self.step()
        gc.collect()
        block, produced = Block(), 0
        while len(block.steps) < steps or produced < tokens * requests:
            block.steps.append(self.step())
            produced += block.steps[-1].tokens
        self.stop()
        return block

    @property
    def room(self) -> int:
        """Tokens that a request may grow by."""
        return self.llm.llm_engine.model_config.max_model_len - self.prompt


def new_engine(
    model: Path,
    settings: Mapping[str, Any] | None,
    *,
    requests: int,
    longest: int,
    compiled: bool = False,
    **more: Any,
) -> "LLM":
    """A stock engine (`settings` None) or one with this package's drafter, otherwise alike.

    `more` are vLLM's own arguments and win over those given here.
    """
    from vllm import LLM

    from nemo_rl_efficientrollout import engine_kwargs

    ours = {} if settings is None else engine_kwargs(str(model), settings)
    arguments: dict[str, Any] = {
        "dtype": "bfloat16",
        "enforce_eager": not compiled,
        "max_model_len": PROMPT + longest,
        "max_num_seqs": requests,
        "skip_tokenizer_init": True,
        "use_tqdm_on_load": False,
        "kv_cache_memory_bytes": KV_CACHE_BYTES,
        "seed": 0,
    }
    return LLM(str(model), **arguments | ours | more)


def set_environment() -> None:
    """Call before anything imports vLLM."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)


def ratio_interval(
    rounds: Sequence[tuple[Sequence[float], Sequence[float]]], draws: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Median of numerators over median of denominators, with a bootstrap 95 % interval.

    Whole rounds are drawn, not single values: values of one round share the machine's mood of that minute, so
    drawing them alone would promise too narrow an interval.
    """
    import numpy

    above, below = ([numpy.asarray(values) for values in side] for side in zip(*rounds, strict=True))

    def ratio(indices: Any) -> float:
        numerator = numpy.median(numpy.concatenate([above[i] for i in indices]))
        return float(numerator / numpy.median(numpy.concatenate([below[i] for i in indices])))

    chance = numpy.random.default_rng(seed)
    sample = [ratio(chance.integers(0, len(above), len(above))) for _ in range(draws)]
    low, high = numpy.quantile(sample, (0.025, 0.975))
    return ratio(range(len(above))), float(low), float(high)
