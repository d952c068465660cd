"""Many samples from a tiny model whose continuations can all be counted."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from vllm import LLM, SamplingParams

from tests.counts import Tokens, Verdict
from tests.engines import start, worker_state
from tests.exact import joint
from tests.lossless.matrix import MAX, settings
from tests.lossless.witness import Witness
from tests.models import save_tiny_model, save_tokenizer, spelling
from tests.proof import Proof

PER_BATCH = 500
DRAFTERS = {"always right": "bf16", "int8": "int8", "int4": "int4", "often wrong": "int8"}
"""Formats by what becomes of their drafts."""


class Bench:
    """A model, a prompt, and the length by which it is continued."""

    def __init__(self, directory: Path, vocabulary: int, prompt: list[int], length: int) -> None:
        self.model = save_tiny_model(directory, vocabulary=vocabulary, sharpness=0.5)
        save_tokenizer(directory, vocabulary)
        self.prompt, self.length = prompt, length
        self._engines: dict[str, LLM] = {}
        self._exact: dict[str, dict[Tokens, float]] = {}

    def exact(self, **asked: Any) -> dict[Tokens, float]:
        """Probability of every continuation; computed once."""
        key = repr(asked)
        if key not in self._exact:
            self._exact[key] = joint(self.model, self.prompt, self.length, **asked)
        return self._exact[key]

    def engine(self, drafter: str) -> LLM:
        """With one of DRAFTERS, or `plain`; started once."""
        if drafter not in self._engines:
            self._engines[drafter] = self.start(drafter)
        return self._engines[drafter]

    def start(self, drafter: str, **vllm: Any) -> LLM:
        """A new engine, whose steps have room for all drafts."""
        few: dict[str, Any] = {
            "max_num_seqs": PER_BATCH,
            "max_num_batched_tokens": PER_BATCH * (MAX + 1),
            "max_model_len": 64,
            "skip_tokenizer_init": False,
        }
        ours = None if drafter == "plain" else settings(DRAFTERS[drafter], max_requests=PER_BATCH)
        llm = start(self.model, ours, **(few | vllm))
        if drafter == "often wrong":
            add_noise(llm)
        return llm

    def sample(self, llm: LLM, count: int, asked: list[dict[str, Any]], n: int = 100) -> list["Counter[Tokens]"]:
        """`count` continuations for each of `asked`; all share every batch, n continuations to a request."""
        params = [request(own, n=n, max_tokens=self.length, detokenize=False) for own in asked]
        rounds = -(-count // n)
        prompts = [{"prompt_token_ids": self.prompt}] * (rounds * len(params))
        outputs = llm.generate(prompts, params * rounds, use_tqdm=False)  # type: ignore[arg-type]
        counts: list[Counter[Tokens]] = [Counter() for _ in asked]
        for index, output in enumerate(outputs):
            counts[index % len(asked)].update(tuple(one.token_ids) for one in output.outputs)
        return counts


def request(asked: dict[str, Any], **ordinary: Any) -> SamplingParams:
    """At temperature 1, with `ordinary` parameters unless others are asked for; bad words are told as tokens."""
    words = ["".join(map(spelling, word)) for word in asked.get("bad_words", ())]
    arguments: dict[str, Any] = {"temperature": 1.0, "ignore_eos": True} | ordinary | asked | {"bad_words": words}
    return SamplingParams(**arguments)


def add_noise(llm: LLM) -> None:
    """Much of what this drafter drafts must be recovered from the residual."""
    torch.manual_seed(0)
    with torch.inference_mode():
        for layer in worker_state(llm).twin.quantized:
            weight = layer.source.weight
            layer.fill([layer.method.format.quantize(weight + 0.5 * weight.std() * torch.randn_like(weight))])


def note(proof: Proof, configuration: str, drafter: str, gamma: int | str, verdict: Verdict, seen: Witness) -> None:
    """A row for the reliability page."""
    proof.row(
        "sampling",
        configuration=configuration,
        drafter=drafter,
        γ=gamma,
        accepted=round(seen.accepted / seen.drafted, 3),
        **verdict.cells_of_row(),
    )
