"""What the scheduler may ask of the workers. It is built after them and sees none of them itself."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from vllm.config import VllmConfig


class Drafters(NamedTuple):
    """What the workers of one engine say of their drafters; the worst of all ranks."""

    fit: bool
    """Every rank may draft: one that may not would leave the others waiting."""
    policy_version: int
    drafter_version: int
    requantize_seconds: float


class Workers:
    """The workers of one engine, through its executor."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor

    def drafters(self) -> Drafters:
        """How the drafters are now."""
        ranks = self._executor.collective_rpc("efficientrollout_stats")
        return Drafters(
            fit=not any(rank["drafter_problem"] for rank in ranks),
            policy_version=max(rank["policy_version"] for rank in ranks),
            drafter_version=min(rank["drafter_version"] for rank in ranks),
            requantize_seconds=max(rank["requantize_seconds"] for rank in ranks),
        )

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
