"""The same for an engine in a process of its own, whose weights and requests come through sockets."""

import asyncio
import multiprocessing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM

from nemo_rl_efficientrollout import engine_kwargs
from tests.engines import prompts
from tests.models import VOCABULARY, save_tiny_model
from tests.proof import Proof
from tests.soak.growth import PER, growth
from tests.soak.resources import of_process
from tests.soak.rollouts import ENGINE, FIXED, SETTINGS, TOKENS, Walk

pytestmark = [pytest.mark.engine, pytest.mark.full]
CYCLES, EVERY = 600, 10


class Held(NamedTuple):
    """By one process."""

    memory: int
    files: int
    threads: int


LET_PASS = Held(memory=4 << 20, files=1, threads=1)
"""Growth over the soak. What malloc keeps in reserve cannot be given back from outside, so memory is less certain."""


class Rollouts:
    """One asynchronous engine, cycle after cycle."""

    def __init__(self, model: Path) -> None:
        arguments = AsyncEngineArgs(
            model=str(model),
            dtype="float32",
            enforce_eager=True,
            skip_tokenizer_init=True,
            **ENGINE,  # type: ignore[arg-type]
            **engine_kwargs(model, SETTINGS | {"gate": FIXED}),
        )
        self.engine = AsyncLLM.from_engine_args(arguments)
        self._walk = Walk(model)

    async def cycle(self, number: int) -> None:
        """One refit, one rollout of requests that come all at once."""
        (answer,) = await self.engine.collective_rpc(
            "efficientrollout_load_weights", args=(self._walk.weights(number),)
        )
        assert answer["policy_version"] == answer["drafter_version"] == number
        batch = prompts(len(TOKENS), VOCABULARY, seed=number, shortest=16, longest=16)
        await asyncio.gather(*(self._answer(f"{number}.{index}", batch[index]) for index in range(len(batch))))
        (after,) = await self.engine.collective_rpc("efficientrollout_stats")
        assert after["drafts"] > answer["drafts"]

    async def _answer(self, name: str, prompt: Any) -> None:
        length = TOKENS[int(name.split(".")[1])]
        sampling = SamplingParams(temperature=1.0, max_tokens=length, ignore_eos=True, detokenize=False)
        async for _ in self.engine.generate(prompt, sampling, name):
            pass


def test_nothing_grows_in_either_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proof: Proof) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    readings: dict[str, list[Held]] = {"front end": [], "engine": []}
    at: list[int] = []

    async def soak() -> None:
        rollouts = Rollouts(save_tiny_model(tmp_path, hidden=64, sharpness=2.0))
        try:
            (child,) = multiprocessing.active_children()
            for number in range(1, CYCLES + 1):
                await rollouts.cycle(number)
                if number % EVERY == 0:
                    at.append(number)
                    readings["front end"].append(Held(*of_process("self")))
                    readings["engine"].append(Held(*of_process(child.pid or 0)))
        finally:
            rollouts.engine.shutdown()

    asyncio.run(soak())
    grown = []
    for process, held in readings.items():
        for name in Held._fields:
            series, bound = growth(at, [getattr(each, name) for each in held]), PER * getattr(LET_PASS, name) / CYCLES
            proof.row("asynchronous engine", process=process, resource=name, **series._asdict(), bound=bound)
            if series.beyond(bound):
                grown.append(f"{name} of the {process}")
    assert grown == []
