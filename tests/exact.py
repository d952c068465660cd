"""The exact distribution of a tiny model's continuations, and whether counts follow it."""

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from scipy.stats import chisquare

Tokens = tuple[int, ...]


def joint(model: Path, prompt: list[int], length: int, temperature: float = 1.0) -> dict[Tokens, float]:
    """Probability of every continuation of `prompt` by `length` tokens, computed by transformers in float32."""
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    probability: dict[Tokens, float] = {(): 1.0}
    for _ in range(length):
        with torch.inference_mode():
            logits = reference(torch.tensor([prompt + list(prefix) for prefix in probability])).logits[:, -1]
        following = (logits.double() / temperature).softmax(-1).tolist()
        probability = {
            (*prefix, token): before * after
            for (prefix, before), row in zip(probability.items(), following, strict=True)
            for token, after in enumerate(row)
        }
    return probability


def p_value(counts: "Counter[Tokens]", probability: dict[Tokens, float]) -> float:
    """Chi-square of joint counts against their exact probabilities; cells expected under 5 are pooled."""
    observed = np.array([counts[tokens] for tokens in probability])
    assert observed.sum() == counts.total(), "a continuation that the model cannot give"
    wanted = np.array(list(probability.values())) * counts.total()
    rare = wanted < 5
    observed = np.append(observed[~rare], observed[rare].sum())
    wanted = np.append(wanted[~rare], wanted[rare].sum())
    return float(chisquare(observed[wanted > 0], wanted[wanted > 0]).pvalue)
