"""Model runner V2 of vLLM 0.25.1. Same names as in every other `v2_vllm_*.py`; `present_v2` chooses."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.v1.attention.backends.utils import PAD_SLOT_ID
from vllm.v1.worker.gpu.sample.gumbel import gumbel_sample

DRAFT_NOISE = 1 << 30
"""Added to positions, which key the noise: this version would draw a draft and its replacement with the same."""
REBUILT_ON_DEVICE = ("FLASH_ATTN", "TRITON_ATTN")
"""Backends whose metadata are built from device tensors without a copy from the host."""


def capture_pool(pool: Any, vllm_config: VllmConfig) -> AbstractContextManager[Any]:
    """The pool to capture a graph into: this version keeps graphs in memory that sleep mode leaves alone."""
    return nullcontext(pool)


def draft_logits_dtype(vllm_config: VllmConfig) -> torch.dtype:
    """Precision in which drafted distributions are kept: they are kept after temperature, unrounded."""
    return torch.float32


def draw_drafts(
    logits: Tensor, index: Tensor, temperature: Tensor, seeds: Tensor, positions: Tensor, cache: Tensor, column: Tensor
) -> Tensor:
    """As in `v2_vllm_0_32_0`, which draws with noise of its own by itself."""
    return gumbel_sample(
        logits,
        index,
        temperature,
        seeds,
        positions + DRAFT_NOISE,
        apply_temperature=True,
        output_processed_logits=cache,  # pyright: ignore[reportCallIssue]
        output_processed_logits_col=column,  # pyright: ignore[reportCallIssue]
    )


def can_refresh(attention_groups: Sequence[Sequence[Any]]) -> bool:
    """Whether attention metadata of one-token decodes can be brought up to date on the device, within a graph."""
    return all(group.backend.get_name() in REBUILT_ON_DEVICE for groups in attention_groups for group in groups)


def slot_mappings(tables: Any, states: Tensor, starts: Tensor, positions: Tensor) -> Tensor:
    """As in `v2_vllm_0_32_0`; this version would look up the blocks of state -1."""
    slots = tables.compute_slot_mappings(states.clamp(min=0), starts, positions, states.shape[0])
    return slots.masked_fill_(states < 0, PAD_SLOT_ID)


def refreshed(groups: Sequence[Sequence[Any]], metadata: dict[str, Any], build: Callable[[], Any]) -> Any:
    """`metadata` by layer, up to date with lengths that changed in place: built again, which a graph can record."""
    return build()


def map_kernel_blocks(groups: Sequence[Sequence[Any]], tables: Sequence[Tensor]) -> None:
    """This version's backends read the block tables as they are."""
