"""vLLM 0.25.1 runs plain decoding on model runner V2, but falls back to V1 for drafters that it does not know there.

Ours it does run: its only part in them is the runner's call of a speculator. Remove with support of 0.25.1.
"""

from typing import Any

from vllm.config import VllmConfig

from ..patching import wrap
from ..versions import installed_vllm

REFUSAL = "speculative method 'draft_model'"


def install() -> None:
    """Let engines that carry our settings have the runner that they would have without a drafter."""
    if installed_vllm() == "0.25.1":
        wrap(VllmConfig, "_get_v2_model_runner_unsupported_features", _without_ours)


def _without_ours(original: Any) -> Any:
    def unsupported(vllm_config: VllmConfig) -> list[str]:
        from ..plugin import is_enabled

        reasons = original(vllm_config)
        return [reason for reason in reasons if reason != REFUSAL] if is_enabled(vllm_config) else reasons

    return unsupported
