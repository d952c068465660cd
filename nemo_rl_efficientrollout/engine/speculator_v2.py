"""Drafting on vLLM's model runner V2: γ one-token decodes of the twin on the target's KV cache, without the host."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.config.compilation import CUDAGraphMode
from vllm.forward_context import BatchDescriptor, set_forward_context
from vllm.v1.worker.gpu.attn_utils import build_attn_metadata, build_slot_mappings_by_layer
from vllm.v1.worker.gpu.input_batch import InputBatch
from vllm.v1.worker.gpu.spec_decode.speculator import DraftModelSpeculator

from .compat.present_v2 import present
from .draft_graphs import Draft, DraftGraphs
from .draft_logits import DraftLogits
from .self_speculation import SelfSpeculation

Attend = Callable[[int], tuple[Any, Any]]
"""Attention metadata and KV slots by layer for the i-th draft."""


class TwinSpeculator(DraftModelSpeculator):
    """Stands where the V2 runner keeps its speculator. Needs no prefill: the target's KV cache is the drafter's.

    All that changes from step to step lives in device buffers of fixed address, in the order of the target's batch.
    """

    draft_length: int | None = None
    """γ of the present step, told by the runner; None while vLLM profiles and captures: γ_max."""
    model: Any
    supports_mm_inputs = False

    def __init__(self, vllm_config: VllmConfig, device: torch.device) -> None:
        super().__init__(_without_draft_logits(vllm_config), device)
        self.vllm_config, self.speculative_config = vllm_config, vllm_config.speculative_config
        self.state = SelfSpeculation(vllm_config)
        self._rows = min(self.state.max_requests, self.max_num_reqs)
        self.draft_logits: Any = DraftLogits.allocate(
            self._rows,
            self.max_num_reqs,
            self.num_speculative_steps,
            self.vocab_size,
            present.draft_logits_dtype(vllm_config),
            device,
        )
        self._arange = torch.arange(self.max_num_reqs + 1, dtype=torch.int32, device=device)
        self._index = torch.full((self.max_num_reqs,), -1, dtype=torch.int64, device=device)
        self._column = torch.zeros((), dtype=torch.int64, device=device)
        self._graphs: DraftGraphs | None = None
        self._use_graphs = True
        self._graph_mode = CUDAGraphMode.NONE

    def load_draft_model(self, target_model: nn.Module, target_attn_layer_names: set[str]) -> nn.Module:
        self.state.adopt(target_model)
        return self.state.twin.model if self.state.twin is not None else target_model

    def set_attn(self, *args: Any) -> None:
        """The twin attends through the target's layers, but with metadata of its own. Only here: elsewhere vLLM would
        take those layers for a drafter's and out of the target."""
        own, self.draft_attn_layer_names = self.draft_attn_layer_names, set(self._attention_names())
        try:
            super().set_attn(*args)
        finally:
            self.draft_attn_layer_names = own

    def _attention_names(self) -> set[str]:
        return self.state.twin.attention_names if self.state.twin is not None else set()

    def draft_by_policy(self, target: nn.Module | None) -> None:
        """Put `target` in the drafter's place, or the drafter back."""
        self.model = self.state.twin.model if target is None and self.state.twin is not None else target
        self._use_graphs = target is None

    # Graphs

    def init_cudagraph_manager(self, cudagraph_mode: CUDAGraphMode) -> None:
        self._graph_mode = cudagraph_mode
        self._graphs = None  # what was captured to estimate memory has another KV cache's addresses

    def capture(self, *_target_states: Any) -> None:
        """Capture the drafts of every γ, where the attention backend can bring its metadata up to date in a graph."""
        full = self._graph_mode.decode_mode() == CUDAGraphMode.FULL
        if self.state.twin is None or not full or not present.can_refresh(self.attn_groups):
            return
        self._graphs = DraftGraphs(self._rows, self.num_speculative_steps)
        self._graphs.capture(self._prepare_capture, self.vllm_config, self.device)

    def _prepare_capture(self, rows: int, length: int) -> Draft:
        self.block_tables.get_dummy_block_tables(rows)
        self._index.fill_(-1)
        self.idx_mapping.fill_(-1)
        self.input_buffers.query_start_loc.copy_(self._arange.clamp(max=rows))
        self.input_buffers.seq_lens.zero_()
        self.input_buffers.seq_lens[:rows] = 1
        attend = self._attend_in_place(rows)
        return lambda: self._draft(rows, length, attend)

    # Drafting

    @torch.inference_mode()
    def propose(
        self,
        input_batch: InputBatch,
        attn_metadata: Any,
        slot_mappings: Any,
        last_hidden_states: Any,
        aux_hidden_states: Any,
        num_sampled: Tensor,
        num_rejected: Tensor,
        last_sampled: Tensor,
        next_prefill_tokens: Tensor,
        temperature: Tensor,
        seeds: Tensor,
        *_unused: Any,
        dummy_run: bool = False,
        skip_attn_for_dummy_run: bool = False,
        is_profile: bool = False,
        **_unused_too: Any,
    ) -> Tensor:
        """Draft for every request of the batch that sampled a token.

        Args:
            input_batch: the target's step; its sequence lengths still count rejected drafts.
            num_sampled, num_rejected: [B]; none is sampled in the middle of a prompt.
            last_sampled: [request states, 1] the tokens just sampled, whose keys and values are not in the cache yet.
            temperature, seeds: [request states].

        Returns: [B, γ_max] int64; columns from γ on are of no use.
        """
        batch = input_batch.num_reqs
        length = self.num_speculative_steps if self.draft_length is None else self.draft_length
        drafts = self.draft_tokens[:batch]
        if dummy_run:  # of the largest batch that vLLM takes: compile, and show the memory of the largest that we take
            batch = min(batch, self._rows)
        if length == 0 or self.state.twin is None or batch > self._rows:
            return drafts.fill_(-1)
        if not (self.state.ready or dummy_run):
            return self._draft_surely(drafts, input_batch.idx_mapping)
        self._take_over(batch, input_batch, num_sampled, num_rejected, last_sampled, temperature, seeds, dummy_run)
        graphs = self._graphs if self._use_graphs and not is_profile else None
        rows = graphs.rows_for(batch, length) if graphs is not None else None
        if graphs is not None and rows is not None:
            present.map_kernel_blocks(self.attn_groups, self.block_tables.input_block_tables)
            graphs.replay(rows, length)
        elif dummy_run and skip_attn_for_dummy_run:
            self._draft(batch, length, lambda _: (None, None))
        else:
            self._draft(batch, length, self._attend_anew(batch, input_batch.seq_lens_cpu_upper_bound))
        return drafts

    def _take_over(
        self,
        batch: int,
        step: InputBatch,
        num_sampled: Tensor,
        num_rejected: Tensor,
        last_sampled: Tensor,
        temperature: Tensor,
        seeds: Tensor,
        dummy_run: bool,
    ) -> None:
        """Fill the buffers from the first `batch` requests of the target's step. Nothing here waits for the device."""
        buffers = self.input_buffers
        states = step.idx_mapping[:batch].to(torch.int64)
        valid = step.seq_lens[:batch] - num_rejected[:batch]  # tokens in the cache; the one just sampled comes next
        buffers.input_ids[:batch] = last_sampled[states, 0]
        buffers.positions[:batch] = valid.clamp(max=self.max_model_len - 1)
        buffers.seq_lens[:batch] = (valid + 1).clamp(max=self.max_model_len)
        buffers.seq_lens[batch:] = 0
        buffers.query_start_loc.copy_(self._arange.clamp(max=batch))
        # Whoever did not sample must not draft: -1 has no KV slots, no row for its distributions and draws nothing.
        idle = num_sampled[:batch] == 0 if not dummy_run else torch.ones_like(states, dtype=torch.bool)
        self.idx_mapping[:batch] = torch.where(idle, -1, states)
        self.idx_mapping[batch:] = -1
        self._index[:batch] = torch.where(idle, -1, self._arange[:batch])
        self._index[batch:] = -1
        self.temperature[:batch] = temperature[states]
        self.seeds[:batch] = seeds[states]
        if not dummy_run:
            self.draft_logits.claim(states)

    def _draft_surely(self, drafts: Tensor, states: Tensor) -> Tensor:
        """For a step that was scheduled just before the drafter fell behind: token 0 with probability 1. Verification
        rejects it by the rules, and nothing of the drafter is run."""
        batch = drafts.shape[0]
        self.draft_logits.logits[:batch].fill_(-torch.inf)
        self.draft_logits.logits[:batch, :, 0] = 0.0
        self.draft_logits.claim(states.to(torch.int64))
        return drafts.zero_()

    def _draft(self, rows: int, length: int, attend: Attend) -> None:
        """γ = `length` decodes for `rows` requests. Runs as it stands, or once into a graph."""
        buffers = self.input_buffers
        for index in range(length):
            hidden = self._forward(rows, *attend(index))
            self._column.fill_(index)
            tokens = present.draw_drafts(
                self.model.compute_logits(hidden),
                self._index[:rows],
                self.temperature,
                self.seeds,
                buffers.positions[:rows],
                self.draft_logits.logits,
                self._column,
            )
            self.draft_tokens[:rows, index] = tokens
            buffers.input_ids[:rows] = tokens
            buffers.positions[:rows].add_(1).clamp_(max=self.max_model_len - 1)
            buffers.seq_lens[:rows].add_(1).clamp_(max=self.max_model_len)

    def _forward(self, rows: int, metadata: Any, slots: Any) -> Tensor:
        """Hidden states [rows, hidden] of one twin step; writes the twin's keys and values into the target's cache."""
        with set_forward_context(
            metadata,
            self.vllm_config,
            num_tokens=rows,
            cudagraph_runtime_mode=CUDAGraphMode.NONE,
            batch_descriptor=BatchDescriptor(num_tokens=rows),
            slot_mapping=slots,
        ):
            return self.model(
                input_ids=self.input_buffers.input_ids[:rows], positions=self.input_buffers.positions[:rows]
            )

    # Attention metadata

    def _attend_anew(self, rows: int, upper_bound: Tensor) -> Attend:
        """Metadata built by the host for every draft: any attention backend can do this."""

        def attend(index: int) -> tuple[Any, Any]:
            lengths = (upper_bound[:rows] + index + 1).clamp(max=self.max_model_len)
            slots = self._slots(rows)
            return self._metadata(rows, slots, lengths), self._by_layer(slots)

        return attend

    def _attend_in_place(self, rows: int) -> Attend:
        """Metadata built once; what follows from lengths and positions is then brought up to date by the device."""
        slots = self._slots(rows)
        by_layer = self._by_layer(slots)
        lengths = torch.full((rows,), self.max_model_len, dtype=torch.int32)

        def build() -> Any:
            return self._metadata(rows, slots, lengths, for_cudagraph_capture=True)

        metadata = build()

        def attend(index: int) -> tuple[Any, Any]:
            self._slots(rows)
            return present.refreshed(self.attn_groups, metadata, build), by_layer

        return attend

    def _slots(self, rows: int) -> Tensor:
        """[groups, rows] KV slots of the tokens that come next, in a buffer of fixed address."""
        return present.slot_mappings(
            self.block_tables,
            self.idx_mapping[:rows],
            self.input_buffers.query_start_loc[: rows + 1],
            self.input_buffers.positions[:rows],
        )

    def _by_layer(self, slots: Tensor) -> dict[str, Tensor]:
        return build_slot_mappings_by_layer(slots, self.kv_cache_config)

    def _metadata(self, rows: int, slots: Tensor, longest: Tensor, **how: Any) -> Any:
        """Of one-token decodes for `rows` requests, by layer. `longest`: [rows] on the host, bounds of lengths."""
        return build_attn_metadata(
            attn_groups=self.attn_groups,
            num_reqs=rows,
            num_tokens=rows,
            query_start_loc_gpu=self.input_buffers.query_start_loc[: rows + 1],
            query_start_loc_cpu=torch.arange(rows + 1, dtype=torch.int32),
            max_query_len=1,
            seq_lens=self.input_buffers.seq_lens[:rows],
            max_seq_len=int(longest.max()),
            block_tables=[table[:rows] for table in self.block_tables.input_block_tables],
            slot_mappings=slots,
            kv_cache_config=self.kv_cache_config,
            seq_lens_cpu_upper_bound=longest,
            **how,
        )


def _without_draft_logits(vllm_config: VllmConfig) -> VllmConfig:
    """A configuration by which vLLM does not allocate its own tensor of distributions, of max_num_seqs rows."""
    speculative = copy.copy(vllm_config.speculative_config)
    speculative.draft_sample_method = "greedy"  # type: ignore[union-attr]
    config = copy.copy(vllm_config)
    config.speculative_config = speculative
    return config
