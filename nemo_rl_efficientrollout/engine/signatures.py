"""Whether vLLM's functions still take what this package hands them: a build may differ from its version number."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import UnsupportedError
from .versions import installed_vllm


def check_signatures(v2: bool) -> None:
    """Look at what the drafter will call on runner V2, or on V1. Raises UnsupportedError naming the first misfit."""
    for function, names in _used_by_v2() if v2 else _used_by_v1():
        missing = set(names.split()) - set(inspect.signature(function).parameters)
        if missing:
            raise UnsupportedError(
                f"{function.__qualname__} of this vLLM {installed_vllm()} does not take {', '.join(sorted(missing))}:"
                " it is not the release that this package was proven on"
            )


def _used_by_v1() -> Iterable[tuple[Callable[..., Any], str]]:
    from vllm.v1.spec_decode.draft_model import DraftModelProposer
    from vllm.v1.spec_decode.utils import eagle_step_update_slot_mapping_and_metadata

    return (
        (
            DraftModelProposer.propose,
            "num_speculative_tokens next_token_ids common_attn_metadata sampling_metadata num_rejected_tokens_gpu",
        ),
        (DraftModelProposer.build_per_group_and_layer_attn_metadata, "draft_index"),
        (
            eagle_step_update_slot_mapping_and_metadata,
            "positions_1d block_table_tensor seq_lens block_size max_model_len out_clamped_positions out_slot_mapping",
        ),
    )


def _used_by_v2() -> Iterable[tuple[Callable[..., Any], str]]:
    from vllm.v1.worker.gpu.attn_utils import build_attn_metadata
    from vllm.v1.worker.gpu.block_table import BlockTables
    from vllm.v1.worker.gpu.sample.gumbel import gumbel_sample
    from vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils import rejection_sample
    from vllm.v1.worker.gpu.spec_decode.speculator import DraftModelSpeculator

    return (
        (
            DraftModelSpeculator.propose,
            "input_batch attn_metadata slot_mappings last_hidden_states aux_hidden_states num_sampled num_rejected"
            " last_sampled next_prefill_tokens temperature seeds dummy_run skip_attn_for_dummy_run is_profile",
        ),
        (
            build_attn_metadata,
            "attn_groups num_reqs num_tokens query_start_loc_gpu query_start_loc_cpu max_query_len seq_lens max_seq_len"
            " block_tables slot_mappings kv_cache_config seq_lens_cpu_upper_bound for_cudagraph_capture",
        ),
        (BlockTables.compute_slot_mappings, "idx_mapping query_start_loc positions num_tokens_padded"),
        (gumbel_sample, "logits expanded_idx_mapping temperature seed pos apply_temperature"),
        (
            rejection_sample,
            "target_logits draft_logits draft_sampled cu_num_logits pos idx_mapping expanded_idx_mapping"
            " expanded_local_pos temperature seed num_speculative_steps",
        ),
    )
