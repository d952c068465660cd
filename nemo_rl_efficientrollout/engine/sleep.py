"""vLLM's sleep mode: the drafter is thrown away and made anew from the policy, never copied to the host.

vLLM copies to the host what was allocated under the tag `weights`, so the drafter lives under a tag of its own.
"""

from functools import wraps
from typing import Any

from .entry_points import state_of

TAG = "efficientrollout_drafter"


def watch(worker: Any) -> None:
    """Let `worker`, just built, tell its drafter when memory goes and comes back."""
    worker.load_model = _loading(worker, worker.load_model)
    worker.sleep = _sleeping(worker, worker.sleep)
    worker.wake_up = _waking(worker, worker.wake_up)


def _loading(worker: Any, original: Any) -> Any:
    @wraps(original)
    def load_model(*args: Any, **kwargs: Any) -> Any:
        answer = original(*args, **kwargs)
        if worker.vllm_config.model_config.enable_sleep_mode:
            with worker._maybe_get_memory_pool_context(TAG):
                state_of(worker).rehouse()
        return answer

    return load_model


def _sleeping(worker: Any, original: Any) -> Any:
    @wraps(original)
    def sleep(level: int = 1) -> Any:
        state_of(worker).sleep(level)
        return original(level)

    return sleep


def _waking(worker: Any, original: Any) -> Any:
    @wraps(original)
    def wake_up(tags: list[str] | None = None) -> Any:
        weights = tags is None or "weights" in tags
        answer = original([*tags, TAG] if tags is not None and weights else tags)
        state_of(worker).wake_up(tags)
        return answer

    return wake_up
