"""What vLLM 0.32.0 calls differently from other supported versions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.v1.worker.gpu.sample.gumbel import gumbel_sample

# Model runner V2


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


def refresh(attention_groups: Sequence[Sequence[Any]], metadata: dict[str, Any]) -> None:
    """Bring `metadata` by layer up to date with lengths that changed in place."""
    for groups in attention_groups:
        for group in groups:
            group.update_draft_decode_metadata(metadata)
