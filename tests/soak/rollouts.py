"""A training job's life from the engine's side: refit, rollout, refit, rollout; with weights that walk at random."""

from array import array
from pathlib import Path
from typing import Any

import torch
from vllm import LLM

from tests.engines import core_of, difference, generate, prompts, set_gate, start, stats, worker_state
from tests.models import VOCABULARY, weights_of
from tests.soak.resources import Held, held

LONGEST = 4
SETTINGS = {"drafter": {"format": "int8"}, "draft_length": {"max": LONGEST}}
FIXED = {"mode": "fixed", "draft_length": LONGEST}
ENGINE = {"max_model_len": 96, "max_num_seqs": 4, "kv_cache_memory_bytes": 1 << 20}
"""A KV cache so small that all of it is in use soon: pages that are used for the first time look like growth."""
HOME_EVERY, SLEEP_EVERY, AUTO_EVERY = 25, 50, 10
"""Cycles between returns to the first weights, between sleeps, and between two spells of the automatic gate."""
AUTO_SPELL = 3
STEP = 2e-3
"""Of the walk, in standard deviations of each tensor."""
TOKENS = [3, 6, 9, 12]
BATCH = prompts(len(TOKENS), VOCABULARY, shortest=16, longest=16)
"""All of one length: every new number of rows is a new kernel for oneDNN, which keeps a thousand of them."""


class Walk:
    """Weights that take a small random step at every refit, and return to where they began now and then."""

    def __init__(self, model: Path) -> None:
        self.home = weights_of(model)
        self._now = {name: tensor.clone() for name, tensor in self.home.items()}
        self._sizes = {name: STEP * float(tensor.std()) for name, tensor in self.home.items() if tensor.dim() > 1}
        self._random = torch.Generator().manual_seed(0)

    def weights(self, cycle: int) -> dict[str, torch.Tensor]:
        """Of the policy after so many refits."""
        for name, tensor in self._now.items():
            if cycle % HOME_EVERY == 0:
                tensor.copy_(self.home[name])
            elif name in self._sizes:
                tensor.add_(torch.randn(tensor.shape, generator=self._random), alpha=self._sizes[name])
        return self._now


class Rollouts:
    """One engine in this process, cycle after cycle. Nobody ever reads its timeline or its metrics."""

    def __init__(self, model: Path, **vllm: Any) -> None:
        self.llm: LLM = start(model, SETTINGS | {"gate": FIXED}, **(ENGINE | vllm))
        self.cycles = 0
        self.drafted, self.accepted = array("l"), array("l")
        """Tokens in each cycle, none where the automatic gate chose. Arrays: what a test keeps must be little."""
        self._walk = Walk(model)
        self._at_home: list[list[int]] | None = None

    def cycle(self) -> None:
        """One refit and one rollout; versions must be equal, and what the first weights say what they said first."""
        self.cycles += 1
        if self.cycles % SLEEP_EVERY == 0:
            core_of(self.llm).collective_rpc("sleep", args=(1,))
            core_of(self.llm).collective_rpc("wake_up")
        auto = (self.cycles - 1) % AUTO_EVERY >= AUTO_EVERY - AUTO_SPELL and self.cycles % HOME_EVERY != 0
        set_gate(self.llm, **({"mode": "auto"} if auto else FIXED))
        self.llm.collective_rpc("efficientrollout_load_weights", args=(self._walk.weights(self.cycles),))
        before = stats(self.llm)
        if self.cycles % HOME_EVERY == 0:
            tokens = generate(self.llm, BATCH, TOKENS)
            self._at_home = self._at_home or tokens
            assert tokens == self._at_home
        else:
            batch = prompts(len(TOKENS), VOCABULARY, seed=self.cycles, shortest=16, longest=16)
            generate(self.llm, batch, TOKENS, temperature=1.0)
        after = stats(self.llm)
        assert after["policy_version"] == after["drafter_version"] == self.cycles
        assert after["drafter_problem"] == ""
        drafted, accepted = (difference(after, before, f"{kind}_tokens") for kind in ("drafted", "accepted"))
        assert auto or drafted
        self.drafted.append(0 if auto else drafted)
        self.accepted.append(0 if auto else accepted)

    def held(self) -> Held:
        """By this process."""
        scheduler = core_of(self.llm).scheduler
        if scheduler._auto is not None:  # 256 entries each at most, and a soak is too short to fill them
            scheduler._auto.trace.clear()
            scheduler._auto._cycles.clear()
        own = [scheduler.gate, scheduler._auto, scheduler.ledger, scheduler.evidence, worker_state(self.llm)]
        return held(own)
