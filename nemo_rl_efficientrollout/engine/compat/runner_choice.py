"""What vLLM 0.25.1 takes from engines with a draft model, although ours does without the reason for it.

It falls back from model runner V2 to V1 for drafters that it does not know there; the only part of ours in V2 is the
runner's call of a speculator. And it schedules synchronously with draft models unless told otherwise; whether the
executor could do better is known only to the finished configuration, so no argument can tell it. Remove with support
of 0.25.1.
"""

from typing import Any

from vllm.config import VllmConfig

from ...patching import wrap
from ..versions import installed_vllm

REFUSAL = "speculative method 'draft_model'"


def install() -> None:
    """Let engines that carry our settings have the runner and scheduling that they would have without a drafter."""
    if installed_vllm() == "0.25.1":
        wrap(VllmConfig, "_get_v2_model_runner_unsupported_features", _without_ours)
        wrap(VllmConfig, "__post_init__", _schedule_asynchronously)


def _without_ours(original: Any) -> Any:
    def unsupported(vllm_config: VllmConfig) -> list[str]:
        from ..plugin import is_enabled

        reasons = original(vllm_config)
        return [reason for reason in reasons if reason != REFUSAL] if is_enabled(vllm_config) else reasons

    return unsupported


def _schedule_asynchronously(original: Any) -> Any:
    def post_init(vllm_config: VllmConfig) -> None:
        from ..plugin import is_enabled

        if is_enabled(vllm_config) and vllm_config.scheduler_config.async_scheduling is None:
            from vllm.v1.executor.abstract import Executor

            able = Executor.get_class(vllm_config).supports_async_scheduling()
            vllm_config.scheduler_config.async_scheduling = able or None
        original(vllm_config)

    return post_init
