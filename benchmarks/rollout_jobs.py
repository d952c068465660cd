"""Rollouts of the demo's kind, on engines in this process: many requests at once, a few of them much longer."""

import gc
import random
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cpu_speedup import SHARPNESS
from .measure import new_engine
from .model import SHAPES, save_random_model
from .record import Progress
from .trained import MAX_MODEL_LEN, MAX_NEW_TOKENS, set_job_environment

__all__ = ["DemoJob", "RandomJob", "Rollout", "set_job_environment"]

GROUP = 8
PROMPT = 48
"""Tokens of a random job's prompts, about as many as the demo's have."""
MEDIAN_RESPONSE, SIGMA = 30.0, 0.8
"""Of a random job's log-normal responses: the demo's before they are cut at its limit."""
HELD_OUT = 1_000_003
"""Seed of rollouts that nothing is predicted of."""


@dataclass(frozen=True)
class Rollout:
    """One call of `generate`."""

    seconds: float
    prompt: list[int]
    """Tokens of each request."""
    response: list[int]
    drafts: int
    """Verifications, over all requests."""
    accepted: list[int]
    """Drafts accepted at each position."""


class _Job(ABC):
    """An engine and what it has to do in each round."""

    name: str
    llm: Any
    longest_prompt = MAX_MODEL_LEN - MAX_NEW_TOKENS
    max_requests: int

    def rollout(self, index: int, gate: dict[str, Any]) -> Rollout:
        """Round `index`; the same problems whatever the gate. Those of negative rounds come in no other."""
        prompts, sampling = self._requests(index)
        self.llm.collective_rpc("efficientrollout_set_gate", args=(gate,))
        self.llm.reset_prefix_cache()
        before = self.llm.collective_rpc("efficientrollout_stats")[0]
        gc.collect()
        started = time.perf_counter()
        outputs = self.llm.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)
        seconds = time.perf_counter() - started
        after = self.llm.collective_rpc("efficientrollout_stats")[0]
        accepted = zip(before["accepted_by_position"], after["accepted_by_position"], strict=True)
        return Rollout(
            seconds,
            [len(ids) for ids in prompts],
            [len(output.outputs[0].token_ids) for output in outputs],
            after["drafts"] - before["drafts"],
            [b - a for a, b in accepted],
        )

    def close(self) -> None:
        """Give the memory back."""
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        gc.collect()

    @abstractmethod
    def _requests(self, index: int) -> tuple[list[list[int]], Any]:
        """Prompts, and sampling parameters of all or of each."""


class DemoJob(_Job):
    """The GRPO example: its warm-started model, its problems, its engine; answers end where the model ends them."""

    name = "demo"

    def __init__(self, directory: Path, options: Any, progress: Progress) -> None:
        from examples.grpo_math.engine import RolloutEngine
        from examples.grpo_math.model import load_policy
        from examples.grpo_math.warm_start import WarmStart, warm_started_model
        from nemo_rl_efficientrollout import read_settings

        with progress.phase("warm-starting the demo's model and starting its engine"):
            model = warm_started_model(options.cache or directory, WarmStart(steps=options.warm_start_steps))
            _, self._tokenizer = load_policy(model)
            settings = read_settings(_settings(options))
            self._engine = RolloutEngine(
                model,
                settings,
                dtype="bfloat16",
                max_model_len=MAX_MODEL_LEN,
                max_num_seqs=options.requests,
                max_new_tokens=MAX_NEW_TOKENS,
                temperature=1.0,
                seed=0,
            )
        self.llm, self.max_requests = self._engine.llm, settings.draft_length.max_requests
        self._problems = options.requests // GROUP

    def _requests(self, index: int) -> tuple[list[list[int]], Any]:
        from examples.grpo_math.arithmetic import arithmetic_problems
        from examples.grpo_math.prompts import BARE, encode, render

        problems = arithmetic_problems(1, self._problems, index if index >= 0 else HELD_OUT - index)
        ids = [encode(render(problem, BARE, self._tokenizer), self._tokenizer) for problem in problems]
        return [one for one in ids for _ in range(GROUP)], self._engine.sampling

    def close(self) -> None:
        super().close()
        del self._engine


class RandomJob(_Job):
    """A random model of the benchmarks' `small` shape; lengths are drawn."""

    name = "small"

    def __init__(self, directory: Path, options: Any, progress: Progress) -> None:
        from nemo_rl_efficientrollout import read_settings

        shape, settings = SHAPES[self.name], _settings(options)
        with progress.phase("building a random model and its engine"):
            model = save_random_model(directory, shape, SHARPNESS)
            self.llm = new_engine(model, settings, requests=options.requests, longest=MAX_MODEL_LEN)
        self.max_requests = read_settings(settings).draft_length.max_requests
        self._vocabulary, self._count = shape.vocabulary, options.requests

    def _requests(self, index: int) -> tuple[list[list[int]], Any]:
        from vllm import SamplingParams

        chance = random.Random(index if index >= 0 else HELD_OUT - index)
        prompts = [[chance.randrange(self._vocabulary) for _ in range(PROMPT)] for _ in range(self._count)]
        lengths = [
            min(max(1, round(MEDIAN_RESPONSE * chance.lognormvariate(0.0, SIGMA))), MAX_NEW_TOKENS) for _ in prompts
        ]
        return prompts, [
            SamplingParams(temperature=1.0, max_tokens=length, ignore_eos=True, detokenize=False) for length in lengths
        ]


def _settings(options: Any) -> dict[str, Any]:
    return {
        "drafter": {"format": "int8"},
        "draft_length": {"max": max(options.draft_lengths)},
        "gate": {"mode": "off"},
        "strict": True,
    }
