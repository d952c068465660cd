"""Model runner V2 of vLLM 0.32.0. Same names as in every other `v2_vllm_*.py`; `present_v2` chooses."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from vllm.compilation import cudagraph_pool
from vllm.config import VllmConfig
from vllm.v1.worker.gpu.sample.gumbel import gumbel_sample


def capture_pool(pool: Any, vllm_config: VllmConfig) -> AbstractContextManager[Any]:
    """The pool to capture a graph into: one that sleep mode can give back, where it gives graphs back."""
    return cudagraph_pool.capture_pool(pool, vllm_config)


def draft_logits_dtype(vllm_config: VllmConfig) -> torch.dtype:
    """Precision in which drafted distributions are kept: that of the head, as they are kept before temperature."""
    return vllm_config.model_config.head_dtype


def draw_drafts(
    logits: Tensor, index: Tensor, temperature: Tensor, seeds: Tensor, positions: Tensor, cache: Tensor, column: Tensor
) -> Tensor:
    """Draw a token per row of `logits`, [rows, vocabulary], with noise that verification does not use.

    Args:
        index: [rows] place of each row in `temperature`, `seeds` and `cache`; -1: of nobody.
        positions: [rows] of the tokens that the logits follow.
        cache: [places, γ_max, vocabulary] where the rejection sampler will look for the distributions.
        column: scalar, which of the γ_max drafts this is.
    """
    return gumbel_sample(
        logits,
        index,
        temperature,
        seeds,
        positions,
        apply_temperature=True,
        is_drafting=True,
        logits_cache=cache,
        logits_cache_col=column,
    )


def can_refresh(attention_groups: Sequence[Sequence[Any]]) -> bool:
    """Whether attention metadata of one-token decodes can be brought up to date on the device, within a graph."""
    return all(group.supports_draft_decode_metadata_update for groups in attention_groups for group in groups)


def slot_mappings(tables: Any, states: Tensor, starts: Tensor, positions: Tensor) -> Tensor:
    """KV slots of one token per request, [groups, rows], in a buffer of fixed address.

    Args:
        states: [rows] request states; -1: a row that must not write, whose slot is a padding slot.
        starts: [rows + 1] int32, first token of each row; rows beyond the batch are empty.
        positions: [rows].
    """
    return tables.compute_slot_mappings(states, starts, positions, states.shape[0])


def refreshed(groups: Sequence[Sequence[Any]], metadata: dict[str, Any], build: Callable[[], Any]) -> Any:
    """`metadata` by layer, up to date with lengths that changed in place."""
    for group in (group for of_cache in groups for group in of_cache):
        group.update_draft_decode_metadata(metadata)
    return metadata


def map_kernel_blocks(groups: Sequence[Sequence[Any]], tables: Sequence[Tensor]) -> None:
    """Tables of backends whose blocks are smaller than the cache's: the host's part of building metadata."""
    for group in (group for of_cache in groups for group in of_cache):
        group.map_to_kernel_block_table(tables[group.kv_cache_group_id])
