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
    deltas: bool = False
    """The loaders are handed changes, with NaN or zero where nothing changed: they say nothing about the weights."""


ENTRY_POINTS = {
    # NeMo-RL
    "update_weights_via_ipc_zmq": EntryPoint(),
    "update_weights_from_collective": EntryPoint(),
    "update_weights_from_checkpoint_engine": EntryPoint(),
    "nccl_reshard_refit": EntryPoint(whole=False),
    "update_weights_from_decoded_sparse_payload": EntryPoint(continues=True, closes=False, whole=False, deltas=True),
    "finish_sparse_delta_refit": EntryPoint(continues=True, whole=False, deltas=True),
    # vLLM
    "reload_weights": EntryPoint(whole=False),
    "start_weight_update": EntryPoint(closes=False, whole=False),
    "update_weights": EntryPoint(continues=True, closes=False, whole=False),
    "finish_weight_update": EntryPoint(continues=True, whole=False),
    "reset_weights": EntryPoint(closes=False, whole=False),
    "discard": EntryPoint(closes=False, whole=False),
}
REHEARSALS = ("prepare_sparse_delta_refit_info",)
"""Methods that run the policy's loaders without changing a weight."""
REFITS = frozenset(name for name, entry in ENTRY_POINTS.items() if entry.closes)
"""Methods after which the policy has a new version."""


def watch(worker: Any) -> None:
    """Let `worker`, just built, tell its drafter about every change of weights."""
    for name, entry in ENTRY_POINTS.items():
        original = getattr(worker, name, None)
        if original is not None:
            setattr(worker, name, _reporting(worker, name, original, entry))
    for name in REHEARSALS:
        original = getattr(worker, name, None)
        if original is not None:
            setattr(worker, name, _rehearsing(worker, original))


def _reporting(worker: Any, name: str, original: Any, entry: EntryPoint) -> Any:
    @wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        state = state_of(worker)
        whole = entry.whole and not _experts_arrive_as_shards(worker)
        state.begin_refit(whole=whole, continues=entry.continues, deltas=entry.deltas)
        try:
            answer = original(*args, **kwargs)
        except BaseException as error:
            state.fail_refit(f"{name} raised {type(error).__name__}: {error}")
            raise
        if answer is False:  # how NeMo-RL's methods report that they caught an exception
            state.fail_refit(f"{name} reported a failure")
        elif entry.closes:
            state.finish_refit()
        return answer

    return call


def _rehearsing(worker: Any, original: Any) -> Any:
    @wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        with state_of(worker).rehearsal():
            return original(*args, **kwargs)

    return call


def _experts_arrive_as_shards(worker: Any) -> bool:
    """Whether NeMo-RL's checkpoint engine puts experts into the live parameters, past the policy's loader."""
    return getattr(getattr(worker, "checkpoint_engine", None), "shard_expert_weights", False)


def state_of(worker: Any) -> "SelfSpeculation":
    """The part of `worker` that owns its drafter."""
    return worker.model_runner.self_speculation
