"""Distributions that drafts were drawn from, kept on model runner V2 until they are verified.

vLLM keeps [max_num_seqs, γ_max, vocabulary] of them: 1.5 GB at 1024 sequences, γ 5 and 152k tokens. Drafts are made for
far fewer requests than that, so here rows belong to whoever drafted last.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FREE = -1
"""A row that nobody drafted in."""


@dataclass(frozen=True, slots=True)
class DraftLogits:
    """Stands where vLLM passes its tensor around; `verify_with` unpacks it. All on one device, never reallocated."""

    logits: Tensor
    """[rows, γ_max, vocabulary] in the precision of the kernels that read it."""
    owner: Tensor
    """[rows] int64: the request state that drafted in a row in the last drafting step, or FREE."""
    row: Tensor
    """[request states] int64: the row that a request state drafted in last, if `owner` agrees."""

    @classmethod
    def allocate(
        cls, rows: int, states: int, lengths: int, vocabulary: int, dtype: torch.dtype, device: torch.device
    ) -> "DraftLogits":
        """Room for `rows` requests out of `states`."""
        return cls(
            torch.zeros(rows, lengths, vocabulary, dtype=dtype, device=device),
            torch.full((rows,), FREE, dtype=torch.int64, device=device),
            torch.zeros(states, dtype=torch.int64, device=device),
        )

    def claim(self, states: Tensor) -> None:
        """Row i is that of `states[i]`, [batch] int64, from now on. Rows beyond are nobody's."""
        batch = states.shape[0]
        self.owner[:batch] = states
        self.owner[batch:] = FREE
        self.row[states] = torch.arange(batch, device=states.device)

    def index(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """For `states`, [n]: where to look for each, and whether it drafted, both [n].

        One that did not has no row. It is sent past the last one, each to a place of its own: the kernels look up a
        request's temperature and seed at the same place, and those all requests need.
        """
        states = states.to(torch.int64)
        rows = self.row[states]
        drafted = self.owner[rows] == states
        return torch.where(drafted, rows, states + self.owner.shape[0]), drafted

    def spread(self, by_state: Tensor) -> Tensor:
        """[request states] → [rows + request states]: values of `by_state` where `index` points."""
        return torch.cat([by_state[self.owner.clamp(min=0)], by_state])


def verify_with(original: Any) -> Any:
    """Wrap vLLM's `rejection_sample` so that it takes a DraftLogits for its tensor of drafts."""

    def rejection_sample(
        target_logits: Tensor,
        draft_logits: Any,
        draft_sampled: Tensor,
        cu_num_logits: Tensor,
        pos: Tensor,
        idx_mapping: Tensor,
        expanded_idx_mapping: Tensor,
        expanded_local_pos: Tensor,
        temperature: Tensor,
        seed: Tensor,
        num_speculative_steps: int,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if not isinstance(draft_logits, DraftLogits):
            drafts, index, expanded, local = draft_logits, idx_mapping, expanded_idx_mapping, expanded_local_pos
        else:
            drafts = draft_logits.logits
            index, _ = draft_logits.index(idx_mapping)
            expanded, drafted = draft_logits.index(expanded_idx_mapping)
            # The place of a bonus token, which has no draft to be compared with.
            local = torch.where(drafted, expanded_local_pos, num_speculative_steps)
            temperature, seed = draft_logits.spread(temperature), draft_logits.spread(seed)
        return original(
            target_logits,
            drafts,
            draft_sampled,
            cu_num_logits,
            pos,
            index,
            expanded,
            local,
            temperature,
            seed,
            num_speculative_steps,
            *args,
            **kwargs,
        )

    return rejection_sample
