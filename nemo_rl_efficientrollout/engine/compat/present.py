"""The file of the installed vLLM: the one place that asks which version this is.

Every `vllm_*.py` beside this one defines the same names; nothing else in `engine` branches on versions.
"""

from ..versions import check_vllm_version

if check_vllm_version() == "0.25.1":
    from .vllm_0_25_1 import (
        forget_copies,
        keep_expert_originals,
        mixed_precision_config,
        new_online_experts,
        pack_experts_again,
        share_routing,
    )
else:
    from .vllm_0_32_0 import (
        forget_copies,
        keep_expert_originals,
        mixed_precision_config,
        new_online_experts,
        pack_experts_again,
        share_routing,
    )

__all__ = [
    "forget_copies",
    "keep_expert_originals",
    "mixed_precision_config",
    "new_online_experts",
    "pack_experts_again",
    "share_routing",
]
