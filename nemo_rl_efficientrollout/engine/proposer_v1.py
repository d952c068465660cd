"""Drafting on vLLM's V1 runner: γ one-token decodes of the twin on the target's KV cache."""

from typing import Any

import torch
from torch import nn
from vllm.forward_context import set_forward_context
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p
from vllm.v1.spec_decode.draft_model import DraftModelProposer
from vllm.v1.spec_decode.utils import eagle_step_update_slot_mapping_and_metadata

from .compat.present import present
from .self_speculation import SelfSpeculation

GREEDY_BELOW = 1e-5
"""Temperatures below this are greedy, as in vLLM's sampler."""


class TwinProposer(DraftModelProposer):
    """Stands where the V1 runner keeps its draft model. Needs no prefill: the target's KV cache is the drafter's."""

    def __init__(self, vllm_config: Any, device: torch.device, runner: Any) -> None:
        super().__init__(vllm_config, device, runner)
        self.state = SelfSpeculation(vllm_config)
        self.model: Any = None
        self._draft_attn_layer_names: set[str] = set()

    def load_model(self, target_model: nn.Module) -> None:
        self.state.adopt(target_model)
        if self.state.twin is not None:
            self.model = self.state.twin.model
            self._draft_attn_layer_names = self.state.twin.attention_names

    def initialize_attn_backend(self, kv_cache_config: Any, kernel_block_sizes: Any = None) -> None:
        groups = [set(group.layer_names) for group in kv_cache_config.kv_cache_groups]
        if self.state.twin is not None and not any(self._draft_attn_layer_names <= g for g in groups):
            self.state.decode_plainly(
                "this model's attention layers use several KV-cache groups (sliding window and full attention): set"
                " disable_hybrid_kv_cache_manager to true"
            )
        if self.state.twin is not None:
            super().initialize_attn_backend(kv_cache_config, kernel_block_sizes)

    def dummy_run(self, *args: Any, **kwargs: Any) -> None:
        if self.state.twin is not None:
            super().dummy_run(*args, **kwargs)

    @torch.inference_mode()
    def propose(  # type: ignore[override]
        self,
        num_speculative_tokens: int,
        next_token_ids: torch.Tensor,
        common_attn_metadata: CommonAttentionMetadata,
        sampling_metadata: SamplingMetadata,
        num_rejected_tokens_gpu: torch.Tensor | None = None,
        **_unused: Any,
    ) -> torch.Tensor:
        """Draft for every request of the batch.

        Args:
            num_speculative_tokens: γ of this step, at least 1.
            next_token_ids: [B] the token just sampled, whose keys and values are not in the cache yet.
            common_attn_metadata: of the target's step; its sequence lengths still count rejected drafts.
            num_rejected_tokens_gpu: [B], None if nothing was verified.

        Returns: [B, γ] int64. The distributions that the tokens were drawn from are kept for the rejection
        sampler, [B, γ, vocabulary] float32 (None if all requests are greedy).
        """
        metadata, positions = self._first_step(common_attn_metadata, num_rejected_tokens_gpu)
        tokens, drafts, probabilities = next_token_ids, [], []
        for index in range(num_speculative_tokens):
            positions = self._advance(metadata, positions)
            tokens, probability = self._sample(self._forward(tokens, metadata, index), sampling_metadata)
            drafts.append(tokens)
            if probability is not None:
                probabilities.append(probability)
        self._last_draft_probs = torch.stack(probabilities, dim=1) if probabilities else None
        return torch.stack(drafts, dim=1)

    def _first_step(
        self, target: CommonAttentionMetadata, rejected: torch.Tensor | None
    ) -> tuple[CommonAttentionMetadata, torch.Tensor]:
        """Metadata of a one-token decode, and the position of the last token whose KV is valid."""
        batch = target.num_reqs
        seq_lens = target.seq_lens.clone() if rejected is None else target.seq_lens - rejected
        upper = target.seq_lens_cpu_upper_bound
        metadata = CommonAttentionMetadata(
            query_start_loc=self.arange[: batch + 1],
            query_start_loc_cpu=torch.from_numpy(self.token_arange_np[: batch + 1]).clone(),
            seq_lens=seq_lens,
            num_reqs=batch,
            num_actual_tokens=batch,
            max_query_len=1,
            max_seq_len=target.max_seq_len,
            block_table_tensor=target.block_table_tensor,
            slot_mapping=self._slot_mapping_buffer[:batch],
            causal=True,
            seq_lens_cpu_upper_bound=None if upper is None else upper.clone(),
        )
        return metadata, seq_lens.to(torch.int64) - 1

    def _advance(self, metadata: CommonAttentionMetadata, positions: torch.Tensor) -> torch.Tensor:
        """One token further: positions, slots and lengths. Beyond max_model_len the slot is a padding slot."""
        batch = metadata.num_reqs
        eagle_step_update_slot_mapping_and_metadata(
            positions_1d=positions,
            block_table_tensor=metadata.block_table_tensor,
            seq_lens=metadata.seq_lens,
            block_size=self.block_size,
            max_model_len=self.max_model_len,
            out_clamped_positions=self.positions[:batch],
            out_slot_mapping=self._slot_mapping_buffer[:batch],
        )
        metadata.max_seq_len = min(metadata.max_seq_len + 1, self.max_model_len)
        if metadata.seq_lens_cpu_upper_bound is not None:
            metadata.seq_lens_cpu_upper_bound += 1
        present.forget_copies(metadata)
        return positions + 1

    def _forward(self, tokens: torch.Tensor, metadata: CommonAttentionMetadata, index: int) -> torch.Tensor:
        """Hidden states [B, hidden] of one twin step; writes the twin's keys and values into the target's cache."""
        batch = metadata.num_reqs
        _, by_layer = self.build_per_group_and_layer_attn_metadata(metadata, draft_index=index)
        self.input_ids[:batch] = tokens
        with set_forward_context(
            by_layer,
            self.vllm_config,
            num_tokens=batch,
            slot_mapping=self._get_slot_mapping(batch),
        ):
            return self.model(input_ids=self.input_ids[:batch], positions=self.positions[:batch])

    def _sample(self, hidden: torch.Tensor, sampling: SamplingMetadata) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Draw from the drafter with the target's temperature, top-k and top-p: what the target filters out
        would only be rejected. Returns tokens [B] int64 and their distributions [B, vocabulary] float32."""
        logits = self.model.compute_logits(hidden).float()
        if sampling.all_greedy:
            return logits.argmax(dim=-1), None
        assert sampling.temperature is not None
        greedy = sampling.temperature < GREEDY_BELOW
        logits.div_(torch.where(greedy, 1.0, sampling.temperature).unsqueeze(1))
        argmax = None if sampling.all_random else logits.argmax(dim=-1)
        logits = apply_top_k_top_p(logits, sampling.top_k, sampling.top_p)
        probabilities = logits.softmax(dim=-1)
        drawn = draw(probabilities, sampling.generators)
        return drawn if argmax is None else torch.where(greedy, argmax, drawn), probabilities


def draw(probabilities: torch.Tensor, generators: dict[int, torch.Generator]) -> torch.Tensor:
    """One token per row, [B] int64, from [B, vocabulary] float32, by inverting the cumulative distribution.

    In float64, so that a token is drawn with the very probability that the rejection sampler is told; and with one
    random number per row: vLLM's way, an exponential one per token, is 20 times slower on a CPU.
    """
    cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
    uniform = torch.rand(len(probabilities), 1, dtype=torch.float64, device=probabilities.device)
    for row, generator in generators.items():
        uniform[row].uniform_(generator=generator)
    drawn = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True).squeeze(1)
    return drawn.clamp_(max=probabilities.shape[1] - 1)
