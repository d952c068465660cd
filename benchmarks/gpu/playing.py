"""An engine that plays rollouts of given lengths, and what its scheduler saw meanwhile."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..measure import set_environment
from .engines import Contestant, open_engine
from .lengths import Request
from .shapes import Built


@dataclass(frozen=True)
class Played:
    """One rollout of one contestant."""

    seconds: float
    tokens: int
    steps: int
    speculating_steps: int
    draft_lengths: int
    """Sum over steps of the longest draft verified."""
    drafted: int
    accepted: int
    gpu_bytes: int | None
    """Allocated by torch, the KV cache included."""


class StepCounter:
    """What every engine's scheduler sees, so that counting costs all contestants alike."""

    def __init__(self, scheduler: Any) -> None:
        self.reset()
        original = scheduler.update_from_output

        def update_from_output(output: Any, result: Any) -> Any:
            self.count(output, result)
            return original(output, result)

        scheduler.update_from_output = update_from_output

    def reset(self) -> None:
        self.steps = self.speculating = self.lengths = self.drafted = self.accepted = 0

    def count(self, output: Any, result: Any) -> None:
        if not output.num_scheduled_tokens:
            return
        self.steps += 1
        drafts = output.scheduled_spec_decode_tokens
        if not drafts:
            return
        self.speculating += 1
        self.lengths += max(map(len, drafts.values()))
        for request, draft in drafts.items():
            sampled = result.sampled_token_ids[result.req_id_to_index[request]]
            if len(sampled):
                self.drafted += len(draft)
                self.accepted += len(sampled) - 1


class RolloutEngine:
    """A contestant."""

    def __init__(self, built: Built, contestant: Contestant, engine: dict[str, Any], temperature: float) -> None:
        set_environment()
        self._temperature, self._vocabulary = temperature, built.vocabulary
        self.llm = open_engine(built, contestant, **engine)
        core: Any = self.llm.llm_engine.engine_core
        self._counter = StepCounter(core.engine_core.scheduler)

    def play(self, requests: Sequence[Request], seed: int) -> Played:
        """Sample all responses, from an empty prefix cache."""
        import torch
        from vllm import SamplingParams

        prompts: Any = [{"prompt_token_ids": self._prompt(request, seed)} for request in requests]
        sampling = [
            SamplingParams(
                temperature=self._temperature, max_tokens=r.response_tokens, ignore_eos=True, detokenize=False
            )
            for r in requests
        ]
        self.llm.reset_prefix_cache()
        self._counter.reset()
        started = time.perf_counter()
        outputs = self.llm.generate(prompts, sampling, use_tqdm=False)
        seconds = time.perf_counter() - started
        found = [len(output.outputs[0].token_ids) for output in outputs]
        if found != [request.response_tokens for request in requests]:
            raise RuntimeError(f"responses of {sum(found)} tokens, expected other lengths")
        counter = self._counter
        return Played(
            seconds,
            sum(found),
            counter.steps,
            counter.speculating,
            counter.lengths,
            counter.drafted,
            counter.accepted,
            torch.cuda.memory_allocated() if torch.cuda.is_available() else None,
        )

    def _prompt(self, request: Request, seed: int) -> list[int]:
        chance = random.Random(f"{seed} {request.prompt}")
        return [chance.randrange(self._vocabulary) for _ in range(request.prompt_tokens)]
