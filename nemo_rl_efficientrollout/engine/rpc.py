"""What `collective_rpc` can ask of an engine. Workers hold the weights, the engine core holds gate and ledger."""

from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load as unpack
from safetensors.torch import save as pack

from ..errors import UserError
from .entry_points import REFITS, state_of

PROBE_SECONDS = 2.0
"""Time that the detector may take when an engine starts."""

Weights = Mapping[str, torch.Tensor] | bytes
"""Named tensors, or a safetensors file in memory: the form in which they cross a process boundary."""


def efficientrollout_stats(worker: Any) -> dict[str, Any]:
    """Versions and counters; cumulative since start, except `requantize_seconds`, which is the last one."""
    refit = state_of(worker).refit
    return {
        "policy_version": refit.policy_version,
        "drafter_version": refit.drafter_version,
        "drafter_problem": refit.problem,
        "requantize_seconds": refit.requantize_seconds,
    }


def efficientrollout_load_weights(worker: Any, weights: Weights) -> dict[str, Any]:
    """Load tensors under their Hugging Face names into the policy, then re-quantize the drafter."""
    named = unpack(weights) if isinstance(weights, bytes) else weights
    state_of(worker).load_weights(named.items())
    return efficientrollout_stats(worker)


def efficientrollout_requantize(worker: Any) -> dict[str, Any]:
    """Rebuild the drafter from the policy's present weights, after they were changed by other means."""
    state_of(worker).requantize()
    return efficientrollout_stats(worker)


def efficientrollout_refresh(worker: Any, needed: bool) -> None:
    """Setting `refit.refresh: on_evidence`: whether the drafter must be made anew. Asked by the engine core."""
    state_of(worker).refresh(needed)


def efficientrollout_set_gate(worker: Any, gate: Mapping[str, Any]) -> None:
    """Replace the gate; keys as in the settings' `gate` block. Answered by the engine core."""


def efficientrollout_timeline(worker: Any) -> dict[str, list[float]]:
    """Steps since the last call. Answered by the engine core."""
    return {}


def efficientrollout_gate(worker: Any) -> dict[str, Any]:
    """The gate's state, its seed and the trace of its decisions. Answered by the engine core."""
    return {}


def efficientrollout_draft_by_policy(worker: Any, policy: bool) -> None:
    """For the start-up test: let the policy itself draft, or its drafter again."""
    worker.model_runner.draft_by_policy(policy)


def efficientrollout_decode_plainly(worker: Any, reason: str) -> None:
    """Give the drafter up for good. Raises UnsupportedError if the settings are strict."""
    worker.model_runner.draft_by_policy(True)  # the runner must not hold what the state lets go
    state_of(worker).decode_plainly(reason)


def efficientrollout_detect(worker: Any, max_rows: int) -> dict[str, Any]:
    """Probe this worker's device with the model's layer shapes: `Detection.to_dict()`, or `refused` with a reason."""
    from ..gate.detector import detect, layer_shapes

    if state_of(worker).twin is None:
        return {"refused": "there is no drafter"}
    config = worker.vllm_config
    try:
        shapes = layer_shapes(config.model_config.hf_text_config.to_dict(), config.parallel_config.tensor_parallel_size)
        return detect(shapes, max_rows, str(worker.device), PROBE_SECONDS).to_dict()
    except (UserError, RuntimeError, MemoryError) as error:  # no memory, no kernel: a gate can do without
        return {"refused": (str(error) or type(error).__name__).splitlines()[0]}


WORKER_METHODS = (
    efficientrollout_stats,
    efficientrollout_load_weights,
    efficientrollout_requantize,
    efficientrollout_refresh,
    efficientrollout_set_gate,
    efficientrollout_timeline,
    efficientrollout_gate,
    efficientrollout_draft_by_policy,
    efficientrollout_decode_plainly,
    efficientrollout_detect,
)


def answer_in_engine_core(original: Any) -> Any:
    """Wrap `EngineCore.collective_rpc`: add what only the scheduler's process knows to the workers' answers."""

    def collective_rpc(
        core: Any, method: Any, timeout: float | None = None, args: tuple = (), kwargs: Any = None
    ) -> list[Any]:
        from .scheduler import DraftLengths

        scheduler = getattr(core, "scheduler", None)
        if not isinstance(scheduler, DraftLengths):
            return original(core, method, timeout, args, kwargs)
        if method == efficientrollout_set_gate.__name__:
            scheduler.set_gate(*args, **(kwargs or {}))
            return [None]
        if method == efficientrollout_timeline.__name__:
            return [scheduler.ledger.timeline.take()]
        if method == efficientrollout_gate.__name__:
            return [scheduler.describe_gate()]
        refits = method == efficientrollout_load_weights.__name__ or method in REFITS
        try:
            answers = original(core, method, timeout, args, kwargs)
            if refits and scheduler.evidence is not None:
                needed = scheduler.evidence.drafter_is_worse()
                original(core, efficientrollout_refresh.__name__, timeout, (needed,))
        finally:
            if method == efficientrollout_load_weights.__name__:
                core.reset_prefix_cache()  # cached keys and values belong to the old weights
            if refits:
                scheduler.refit()
            scheduler.workers_changed()
        if method in _WITH_COUNTERS:
            return [answer | scheduler.ledger.counters() for answer in answers]
        return answers

    return collective_rpc


def tell_scheduler(original: Any) -> Any:
    """Wrap a method of `EngineCore` that takes memory from the workers or gives it back."""

    def call(core: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(core, *args, **kwargs)
        finally:
            _workers_changed(core)

    return call


def _workers_changed(core: Any) -> None:
    from .scheduler import DraftLengths

    if isinstance(getattr(core, "scheduler", None), DraftLengths):
        core.scheduler.workers_changed()


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
