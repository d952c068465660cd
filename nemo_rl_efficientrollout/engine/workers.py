"""What the scheduler may ask of the workers. It is built after them and sees none of them itself."""

from collections.abc import Mapping
from typing import Any

from vllm.config import VllmConfig


class Workers:
    """The workers of one engine, through its executor."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor

    def may_draft(self) -> bool:
        """Whether every worker's drafter is fit to draft: a rank that may not would leave the others waiting."""
        return all(self._executor.collective_rpc("efficientrollout_may_draft"))

    def detect(self, max_rows: int) -> Mapping[str, Any]:
        """`Detection.to_dict()` of one worker's device up to a number of rows, or `refused` with a reason."""
        return self._executor.collective_rpc("efficientrollout_detect", args=(max_rows,))[0]


_offered: dict[int, Workers] = {}


def offer_to_scheduler(original: Any) -> Any:
    """Wrap `EngineCore._initialize_kv_caches`, the last step before the scheduler is built: workers are ready."""

    def initialize(core: Any, vllm_config: VllmConfig, *args: Any, **kwargs: Any) -> Any:
        from .plugin import is_enabled

        caches = original(core, vllm_config, *args, **kwargs)
        if is_enabled(vllm_config):
            _offered[id(vllm_config)] = Workers(core.model_executor)
        return caches

    return initialize


def take(vllm_config: VllmConfig) -> Workers:
    """The workers that were left for the scheduler of this engine."""
    return _offered.pop(id(vllm_config))
