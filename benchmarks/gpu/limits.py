"""What speculation could gain at most, from the bytes that steps read: τ, the byte ratio c, and the limit S*.

τ(γ) = (1 - α^(γ+1)) / (1 - α)                            tokens of a cycle, bonus token included
c    = (W_drafter + k B S) / (W_target + k B S)           a drafter step over a plain one, both bound by memory
S*   = max over γ of  τ(γ) / (γ c + 1)                    a verification costs one plain step
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nemo_rl_efficientrollout.drafter.formats import format_named
from nemo_rl_efficientrollout.drafter.shapes import model_shape
from nemo_rl_efficientrollout.drafter.size import EMBEDDING, NORMS, drafter_size, policy_size

LONGEST = 11
"""Draft lengths that the limit may choose from: 1…11, as in the paper's ladder."""
BF16_BYTES = 2


def acceptance_length(draft_length: int, acceptance: float) -> float:
    """τ."""
    return sum(acceptance**position for position in range(draft_length + 1))


def unconditional(draft_length: int, acceptance: float) -> list[float]:
    """Chance that a draft at each position is accepted together with all before it."""
    return [acceptance**position for position in range(1, draft_length + 1)]


def speedup(draft_length: int, acceptance: float, draft: float, verify: float = 1.0) -> float:
    """Of a cycle over plain decoding, with drafting and verification in units of a plain step."""
    return acceptance_length(draft_length, acceptance) / (draft_length * draft + verify)


def byte_limit(acceptance: float, draft: float, longest: int = LONGEST) -> tuple[float, int]:
    """S* and the γ that reaches it."""
    return max((speedup(length, acceptance, draft), length) for length in range(1, longest + 1))


@dataclass(frozen=True)
class Bytes:
    """What one step reads, weights and cached keys and values; the embedding's rows are next to nothing."""

    target: int
    drafter: int
    kv_per_token: int

    @classmethod
    def of(cls, config: Mapping[str, Any], format_name: str) -> "Bytes":
        """From config.json; a layer that the format does not take is read as the policy's own."""
        shape = model_shape(config)
        parts = policy_size(shape)
        target = sum(size for part, size in parts.items() if part not in (EMBEDDING, NORMS))
        own = drafter_size(shape, format_named(format_name))
        refused = {refusal.layer for refusal in own.refusals}
        shared = sum(BF16_BYTES * one.count * one.weights for one in shape.linears if one.name in refused)
        drafter = own.total + shared if format_name != "bf16" else target
        head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        kv = 2 * BF16_BYTES * config["num_hidden_layers"] * config["num_key_value_heads"] * head_dim
        return cls(target, drafter, kv)

    def ratio(self, requests: int = 0, context: float = 0.0) -> float:
        """c at B requests with S tokens of context each."""
        cache = self.kv_per_token * requests * context
        return (self.drafter + cache) / (self.target + cache)
