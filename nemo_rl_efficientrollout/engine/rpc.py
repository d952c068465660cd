"""What `collective_rpc` can ask of an engine. Workers hold the weights, the engine core holds gate and ledger."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load as unpack
from safetensors.torch import save as pack

if TYPE_CHECKING:
    from .self_speculation import SelfSpeculation

Weights = Mapping[str, torch.Tensor] | bytes
"""Named tensors, or a safetensors file in memory: the form in which they cross a process boundary."""


def efficientrollout_stats(worker: Any) -> dict[str, Any]:
    """Versions and counters; cumulative since start, except `requantize_seconds`, which is the last one."""
    refit = _state(worker).refit
    return {
        "policy_version": refit.policy_version,
        "drafter_version": refit.drafter_version,
        "requantize_seconds": refit.requantize_seconds,
    }


def efficientrollout_load_weights(worker: Any, weights: Weights) -> dict[str, Any]:
    """Load tensors under their Hugging Face names into the policy, then re-quantize the drafter."""
    named = unpack(weights) if isinstance(weights, bytes) else weights
    _state(worker).load_weights(named.items())
    return efficientrollout_stats(worker)


def efficientrollout_requantize(worker: Any) -> dict[str, Any]:
    """Rebuild the drafter from the policy's present weights, after they were changed by other means."""
    _state(worker).requantize()
    return efficientrollout_stats(worker)


def efficientrollout_set_gate(worker: Any, gate: Mapping[str, Any]) -> None:
    """Replace the gate; keys as in the settings' `gate` block. Answered by the engine core."""


def efficientrollout_timeline(worker: Any) -> dict[str, list[float]]:
    """Steps since the last call. Answered by the engine core."""
    return {}


WORKER_METHODS = (
    efficientrollout_stats,
    efficientrollout_load_weights,
    efficientrollout_requantize,
    efficientrollout_set_gate,
    efficientrollout_timeline,
)


def answer_in_engine_core(original: Any) -> Any:
    """Wrap `EngineCore.collective_rpc`: add what only the scheduler's process knows to the workers' answers."""

    def collective_rpc(
        core: Any, method: Any, timeout: float | None = None, args: tuple = (), kwargs: Any = None
    ) -> list[Any]:
        from .scheduler import DraftLengthScheduler

        scheduler = getattr(core, "scheduler", None)
        if not isinstance(scheduler, DraftLengthScheduler):
            return original(core, method, timeout, args, kwargs)
        if method == efficientrollout_set_gate.__name__:
            scheduler.set_gate(*args, **(kwargs or {}))
            return [None]
        if method == efficientrollout_timeline.__name__:
            return [scheduler.ledger.take_timeline()]
        try:
            answers = original(core, method, timeout, args, kwargs)
        finally:
            if method == efficientrollout_load_weights.__name__:
                core.reset_prefix_cache()  # cached keys and values belong to the old weights
                scheduler.gate.refit()
        if method in _WITH_COUNTERS:
            return [answer | scheduler.ledger.counters() for answer in answers]
        return answers

    return collective_rpc


def pack_weights_for_transport(original: Any) -> Any:
    """Wrap a client's `collective_rpc`: vLLM's message format cannot carry tensors inside untyped arguments."""

    def collective_rpc(
        client: Any, method: Any, timeout: float | None = None, args: tuple = (), kwargs: Any = None
    ) -> Any:
        if method == efficientrollout_load_weights.__name__ and args and not isinstance(args[0], bytes):
            contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in dict(args[0]).items()}
            args = (pack(contiguous), *args[1:])
        return original(client, method, timeout, args, kwargs)

    return collective_rpc


_WITH_COUNTERS = {
    efficientrollout_stats.__name__,
    efficientrollout_load_weights.__name__,
    efficientrollout_requantize.__name__,
}


def _state(worker: Any) -> "SelfSpeculation":
    return worker.model_runner.self_speculation
