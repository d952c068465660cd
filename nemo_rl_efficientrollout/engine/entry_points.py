"""Every way by which a worker's weights change, and how the drafter hears of it.

NeMo-RL writes weights through methods that it adds to vLLM's worker (nemo_rl/models/generation/vllm/vllm_backend.py,
https://github.com/NVIDIA-NeMo/RL), some of them straight into the live parameters. So not the weights are watched but
the methods, on the worker object itself.
"""

from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .self_speculation import SelfSpeculation


@dataclass(frozen=True, slots=True)
class EntryPoint:
    """A method that changes weights, or takes part in it."""

    continues: bool = False
    """The call may be one of several that make up a refit; any other starts a new one."""
    closes: bool = True
    """The policy is whole again after this call."""
    whole: bool = True
    """Every tensor is expected, by name."""


ENTRY_POINTS = {
    # NeMo-RL
    "update_weights_via_ipc_zmq": EntryPoint(),
    "update_weights_from_collective": EntryPoint(),
    "update_weights_from_checkpoint_engine": EntryPoint(),
    "nccl_reshard_refit": EntryPoint(whole=False),
    "update_weights_from_decoded_sparse_payload": EntryPoint(continues=True, closes=False, whole=False),
    "finish_sparse_delta_refit": EntryPoint(continues=True, whole=False),
    # vLLM
    "reload_weights": EntryPoint(whole=False),
    "start_weight_update": EntryPoint(closes=False, whole=False),
    "update_weights": EntryPoint(continues=True, closes=False, whole=False),
    "finish_weight_update": EntryPoint(continues=True, whole=False),
    "reset_weights": EntryPoint(closes=False, whole=False),
    "discard": EntryPoint(closes=False, whole=False),
}
REFITS = frozenset(name for name, entry in ENTRY_POINTS.items() if entry.closes)
"""Methods after which the policy has a new version."""


def watch(worker: Any) -> None:
    """Let `worker`, just built, tell its drafter about every change of weights."""
    for name, entry in ENTRY_POINTS.items():
        original = getattr(worker, name, None)
        if original is not None:
            setattr(worker, name, _reporting(worker, original, entry))


def _reporting(worker: Any, original: Any, entry: EntryPoint) -> Any:
    @wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        state = state_of(worker)
        state.begin_refit(whole=entry.whole, continues=entry.continues)
        try:
            answer = original(*args, **kwargs)
        except BaseException as error:
            state.fail_refit(f"{original.__name__} raised {type(error).__name__}: {error}")
            raise
        if answer is False:  # how NeMo-RL's methods report that they caught an exception
            state.fail_refit(f"{original.__name__} reported a failure")
        elif entry.closes:
            state.finish_refit()
        return answer

    return call


def state_of(worker: Any) -> "SelfSpeculation":
    """The part of `worker` that owns its drafter."""
    return worker.model_runner.self_speculation
