"""The file of the installed vLLM for model runner V2, as `present` is for all else.

Apart from it because it imports Triton kernels, which an engine on model runner V1 can do without.
"""

from ..versions import check_vllm_version

if check_vllm_version() == "0.25.1":
    from .v2_vllm_0_25_1 import (
        can_refresh,
        capture_pool,
        draft_logits_dtype,
        draw_drafts,
        map_kernel_blocks,
        refreshed,
        slot_mappings,
    )
else:
    from .v2_vllm_0_32_0 import (
        can_refresh,
        capture_pool,
        draft_logits_dtype,
        draw_drafts,
        map_kernel_blocks,
        refreshed,
        slot_mappings,
    )

__all__ = [
    "can_refresh",
    "capture_pool",
    "draft_logits_dtype",
    "draw_drafts",
    "map_kernel_blocks",
    "refreshed",
    "slot_mappings",
]
