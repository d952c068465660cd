"""The exact distribution of a tiny model's continuations, computed by transformers and by the definitions alone."""

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.counts import Counter, Tokens, against_exact

NEVER = float("-inf")


@cache
def load(model: Path) -> Any:
    """The model in float32."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)


def joint(
    model: Path, prompt: list[int], length: int, temperature: float = 1.0, **parameters: Any
) -> dict[Tokens, float]:
    """Probability of every continuation of `prompt` by `length` tokens, or fewer where a stop token ends it.

    `parameters`, named as in vLLM's SamplingParams: those of `constrain`, `stop_token_ids`, and `min_tokens`.
    """
    reference = load(model)
    stops, least = set(parameters.pop("stop_token_ids", ())), parameters.pop("min_tokens", 0)
    ended: dict[Tokens, float] = {}
    probability: dict[Tokens, float] = {(): 1.0}
    for _ in range(length):
        rows = [prompt + list(prefix) for prefix in probability]
        with torch.inference_mode():
            logits = reference(torch.tensor(rows)).logits[:, -1].double()
        stopping = stops if len(rows[0]) - len(prompt) >= least else set()
        never = stops - stopping
        following = [
            constrain(row, prompt, prefix, temperature, never=never, **parameters).softmax(-1).tolist()
            for row, prefix in zip(logits, probability, strict=True)
        ]
        extended = {
            (*prefix, token): before * after
            for (prefix, before), row in zip(probability.items(), following, strict=True)
            for token, after in enumerate(row)
            if after > 0
        }
        ended |= {tokens: chance for tokens, chance in extended.items() if tokens[-1] in stopping}
        probability = {tokens: chance for tokens, chance in extended.items() if tokens[-1] not in stopping}
    return ended | probability


def constrain(
    logits: Tensor,
    prompt: Sequence[int],
    prefix: Sequence[int],
    temperature: float = 1.0,
    *,
    top_k: int = 0,
    top_p: float = 1.0,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    bad_words: Sequence[Sequence[int]] = (),
    allowed_token_ids: Sequence[int] | None = None,
    never: Iterable[int] = (),
) -> Tensor:
    """Logits [vocabulary] of the token after `prompt` and `prefix`, as they are sampled from."""
    logits = logits.clone()
    output = torch.bincount(torch.tensor(prefix, dtype=torch.int64), minlength=len(logits)).to(logits)
    seen = output + torch.bincount(torch.tensor(prompt), minlength=len(logits)).to(logits) > 0
    repeated = torch.where(logits > 0, logits / repetition_penalty, logits * repetition_penalty)
    logits = torch.where(seen, repeated, logits)
    logits -= frequency_penalty * output + presence_penalty * (output > 0)
    logits[list(never)] = NEVER
    if allowed_token_ids is not None:
        forbidden = torch.ones(len(logits), dtype=torch.bool)
        forbidden[list(allowed_token_ids)] = False
        logits[forbidden] = NEVER
    for *beginning, last in bad_words:
        if not beginning or list(prefix[-len(beginning) :]) == beginning:
            logits[last] = NEVER
    logits /= temperature
    return _nucleus(_most_likely(logits, top_k), top_p)


def _most_likely(logits: Tensor, count: int) -> Tensor:
    if not 0 < count < len(logits):
        return logits
    return torch.where(logits < logits.topk(count).values[-1], NEVER, logits)


def _nucleus(logits: Tensor, mass: float) -> Tensor:
    """The fewest tokens, most likely first, that together have at least `mass`."""
    descending = logits.argsort(descending=True)
    before = logits[descending].softmax(-1).cumsum(-1) - logits[descending].softmax(-1)
    logits[descending[before >= mass]] = NEVER
    return logits


def p_value(counts: "Counter[Tokens]", probability: dict[Tokens, float]) -> float:
    """Chi-square of joint counts against their exact probabilities."""
    return against_exact(counts, probability).p
