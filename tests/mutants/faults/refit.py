"""Refits after which the drafter is not the policy's."""

from typing import Any

import torch

from tests.mutants.fault import Faults

faults = Faults()
ENGINE = "nemo_rl_efficientrollout.engine."
REFIT = "tests/engine/test_refit.py::"
FAULTS = "tests/engine/test_refit_faults.py::"
STREAMS = f"{FAULTS}test_faulty_streams_are_named_and_healed"


@faults.at(
    ENGINE + "requantizer:Requantizer.quantize",
    REFIT + "test_refit_replaces_every_drafter_tensor_in_place",
    "a refit counts a new drafter version, but quantizes nothing",
)
def no_requantization(original: Any) -> Any:
    filled: set[int] = set()

    def broken(requantizer: Any, layers: Any) -> None:
        original(requantizer, [layer for layer in layers if id(layer) not in filled])
        filled.update(map(id, layers))
        requantizer._finite |= {layer.path: torch.tensor(True) for layer in layers}

    return broken


@faults.at(
    ENGINE + "kernels.draft_linear:DraftLinear.overwrite",
    "tests/engine/test_formats.py::test_kernel_and_simulation_are_refilled_in_place_alike[fp8]",
    "a refit quantizes, but leaves the old scales in the kernel",
)
def old_scales_stay(original: Any) -> Any:
    def broken(linear: Any, kernel: Any, packed: Any) -> None:
        tensors = {name: value for name, value in vars(linear._weights).items() if isinstance(value, torch.Tensor)}
        kept = {name: value.clone() for name, value in tensors.items() if "scale" in name}
        original(linear, kernel, packed)
        for name, value in kept.items():
            getattr(linear._weights, name).copy_(value)

    return broken


@faults.at(
    ENGINE + "refit:Refit.may_draft",
    REFIT + "test_weights_loaded_behind_our_back_are_noticed",
    "the drafter's version never lags",
)
def version_never_lags(original: Any) -> Any:
    return property(lambda refit: True)


@faults.at(
    "vllm.v1.engine.core:EngineCore.reset_prefix_cache",
    REFIT + "test_prefix_cache_is_dropped_at_refit",
    "the prefix cache is kept after a refit",
)
def prefix_cache_kept(original: Any) -> Any:
    return lambda *arguments, **named: True


@faults.at(
    ENGINE + "compat.cpu_weights:pack_again",
    REFIT + "test_prefix_cache_is_dropped_at_refit",
    "the policy goes on with weights that were packed before the refit",
)
def policy_not_packed_again(original: Any) -> Any:
    return lambda model: None


@faults.at(
    ENGINE + "arrival:Arrival._note",
    FAULTS + "test_every_transport_of_nemo_rl_refreshes_the_drafter[update_weights_via_ipc_zmq]",
    "a layer is quantized when the first of its tensors has arrived",
)
def quantized_before_all_arrived(original: Any) -> Any:
    def broken(arrival: Any, name: str, tensor: Any) -> None:
        for path, part in arrival._owners.get(name, ()):
            arrival._missing[path] &= {part}
        original(arrival, name, tensor)

    return broken


@faults.at(ENGINE + "arrival:Arrival.problems", f"{STREAMS}[missing]", "nobody asks whether every tensor arrived")
def missing_tensor_unnoticed(original: Any) -> Any:
    return lambda arrival, whole: original(arrival, False)


@faults.at(ENGINE + "requantizer:not_finite", f"{STREAMS}[NaN]", "NaN in a quantized layer is not looked for")
def nan_unnoticed(original: Any) -> Any:
    return lambda flags: []


@faults.at(
    ENGINE + "self_speculation:SelfSpeculation.fail_refit",
    FAULTS + "test_a_transport_that_reports_failure_leaves_plain_decoding",
    "a transport that reports failure is believed to have succeeded",
)
def failure_taken_for_success(original: Any) -> Any:
    return lambda state, reason: state.requantize()


@faults.at(
    ENGINE + "session:RefitSession.__init__",
    FAULTS + "test_every_transport_of_nemo_rl_refreshes_the_drafter[nccl_reshard_refit]",
    "layers whose weights are written past the loader count as made by the refit before",
)
def layers_written_past_the_loader_stay(original: Any) -> Any:
    def broken(session: Any, target: Any, twin: Any, requantizer: Any, *rest: Any) -> None:
        kept = dict(requantizer._finite)
        original(session, target, twin, requantizer, *rest)
        requantizer._finite = kept

    return broken


@faults.at(
    ENGINE + "self_speculation:SelfSpeculation.wake_up",
    FAULTS + "test_a_drafter_is_remade_after_sleep",
    "a drafter whose memory was given back drafts without being remade",
)
def sleep_without_remaking(original: Any) -> Any:
    def broken(state: Any, tags: Any) -> None:
        state.refit.succeed(0.0)

    return broken


@faults.at(
    ENGINE + "requantizer:Requantizer.start",
    FAULTS + "test_sleep_in_the_middle_of_a_refit[2]",
    "layers that were quantized before a sleep within a refit count as made",
)
def sleep_in_a_refit_forgotten(original: Any) -> Any:
    def broken(requantizer: Any) -> None:
        if not requantizer._finite or len(requantizer._finite) == len(requantizer._layers):
            original(requantizer)

    return broken


@faults.at(
    "nemo_rl_efficientrollout.gate.evidence:Evidence.drafter_is_worse",
    "tests/unit/test_evidence.py::test_kept_while_acceptance_holds_and_remade_when_it_falls",
    "with refit.refresh on_evidence the drafter is kept whatever its acceptance",
)
def kept_against_the_evidence(original: Any) -> Any:
    return lambda evidence: False
