"""What policy, drafter and KV cache take of one GPU."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..drafter.size import drafter_size, policy_size
from ..simulate import Limits
from .models import Model
from .scenario import Scenario

if TYPE_CHECKING:  # it imports torch
    from ..drafter.formats import Format

RESERVE_BYTES = 3 * 2**30
"""Activations, CUDA graphs and workspaces: a guess."""
PROBABILITY_BYTES = 2
"""Draft distributions, kept for the rejection sampler."""
GIB = 2**30


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU."""

    room: float
    """The engine's share."""
    policy: float
    drafter: float
    distributions: float
    """Of drafts: requests · γ · vocabulary."""
    token_bytes: float
    """KV cache of one token."""
    longest: int
    """Tokens that the longest request needs, reserved slots included."""

    @property
    def kv(self) -> float:
        """What is left for the KV cache; negative if the rest does not fit."""
        return self.room - RESERVE_BYTES - self.policy - self.drafter - self.distributions

    @property
    def kv_tokens(self) -> int:
        return max(int(self.kv / self.token_bytes), 0)

    @property
    def problem(self) -> str | None:
        """Why it does not fit; None if it does."""
        if self.kv_tokens >= self.longest:
            return None
        parts = f"policy {self.policy / GIB:.1f} GiB" + (f", drafter {self.drafter / GIB:.1f}" if self.drafter else "")
        left = f"{self.kv_tokens:,} tokens of KV cache" if self.kv > 0 else f"{-self.kv / GIB:.1f} GiB too little"
        return (
            f"{parts} and {RESERVE_BYTES / GIB:.0f} GiB besides leave {left} of {self.room / GIB:.1f} GiB, the longest"
            f" request needs {self.longest:,}; raise --gpu-memory-utilization or --tp, or shorten with --max-length"
        )

    def limits(self, scenario: Scenario, drafting: bool) -> Limits:
        """Of one engine."""
        return Limits(scenario.max_num_seqs, self.kv_tokens, lookahead=drafting * scenario.max_draft_length)


def memory(scenario: Scenario, form: "Format | None") -> Memory:
    """With a drafter of this format, or with none."""
    model: Model = scenario.model
    shape = model.shape(scenario.tensor_parallel)
    constants = model.constants(scenario.tensor_parallel, 1.0)
    heads = max(constants.kv_heads / scenario.tensor_parallel, 1.0)
    drafted = min(scenario.most_drafted_for, scenario.max_num_seqs) * scenario.max_draft_length
    return Memory(
        room=scenario.gpu_memory_utilization * scenario.gpu.memory_bytes,
        policy=sum(policy_size(shape).values()),
        drafter=drafter_size(shape, form).total if form else 0,
        distributions=PROBABILITY_BYTES * drafted * constants.vocabulary if form else 0,
        token_bytes=2 * 2 * constants.layers * heads * constants.head_dim,
        longest=scenario.longest + 1 + (scenario.max_draft_length if form else 0),
    )
