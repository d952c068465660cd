"""The draft loop: positions, slots, lengths, and what a draft follows."""

from typing import Any

import torch

from tests.mutants.fault import Faults

faults = Faults()
PROPOSER = "nemo_rl_efficientrollout.engine.proposer_v1:"
RUNNER = "nemo_rl_efficientrollout.engine.runner_v1:SelfSpeculativeRunner."
UPDATE = PROPOSER + "eagle_step_update_slot_mapping_and_metadata"
ISOLATION = "tests/lossless/test_kv_isolation.py::test_no_foreign_block_is_written"
EXACT, ROUGH = f"{ISOLATION}[bf16-3]", f"{ISOLATION}[int8-3]"


@faults.at(PROPOSER + "TwinProposer._advance", EXACT, "drafts are computed one position, and so one slot, too far")
def wrong_position(original: Any) -> Any:
    return lambda proposer, metadata, positions: original(proposer, metadata, positions + 1)


@faults.at(UPDATE, EXACT, "drafts see the position of the token before")
def rotary_position_too_low(original: Any) -> Any:
    def broken(out_clamped_positions: Any, **rest: Any) -> None:
        original(out_clamped_positions=out_clamped_positions, **rest)
        out_clamped_positions.sub_(1).clamp_(min=0)

    return broken


@faults.at(UPDATE, EXACT, "drafts are written one KV slot too low")
def slot_too_low(original: Any) -> Any:
    def broken(out_slot_mapping: Any, **rest: Any) -> None:
        original(out_slot_mapping=out_slot_mapping, **rest)
        out_slot_mapping -= (out_slot_mapping > 0).to(out_slot_mapping.dtype)

    return broken


@faults.at(
    "nemo_rl_efficientrollout.engine.scheduler:DraftLengths.__init__", EXACT, "no KV slots are reserved for drafts"
)
def missing_lookahead(original: Any) -> Any:
    def broken(scheduler: Any, *arguments: Any, **named: Any) -> None:
        original(scheduler, *arguments, **named)
        scheduler.num_lookahead_tokens = 0

    return broken


@faults.at(PROPOSER + "TwinProposer._first_step", ROUGH, "after a rejection drafts go on behind the rejected tokens")
def drafts_follow_rejected_tokens(original: Any) -> Any:
    return lambda proposer, target, rejected: original(proposer, target, None)


@faults.at(PROPOSER + "TwinProposer.propose", EXACT, "one token fewer is drafted than was asked for")
def one_draft_fewer(original: Any) -> Any:
    def broken(proposer: Any, num_speculative_tokens: int, **rest: Any) -> Any:
        return original(proposer, num_speculative_tokens=max(num_speculative_tokens - 1, 1), **rest)

    return broken


@faults.at(PROPOSER + "TwinProposer.propose", EXACT, "every draft starts from the token before the one just sampled")
def first_draft_follows_an_old_token(original: Any) -> Any:
    def broken(proposer: Any, next_token_ids: torch.Tensor, **rest: Any) -> Any:
        return original(proposer, next_token_ids=next_token_ids.roll(1), **rest)

    return broken


@faults.at(UPDATE, EXACT, "drafting does not stop at max_model_len")
def beyond_max_model_len(original: Any) -> Any:
    return lambda max_model_len, **rest: original(max_model_len=1 << 30, **rest)


@faults.at(
    RUNNER + "_input_fits_in_drafter",
    "tests/lossless/test_lifecycle.py::test_up_to_max_model_len[int8]",
    "one request near max_model_len keeps the whole batch from drafting",
)
def one_long_request_stops_all(original: Any) -> Any:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    return GPUModelRunner._input_fits_in_drafter


@faults.at(
    "nemo_rl_efficientrollout.engine.speculator_v2:TwinSpeculator._take_over",
    "tests/unit/test_speculator_v2.py::test_a_request_in_mid_prompt_gets_no_slot_and_no_row",
    "on runner V2 requests in the middle of their prompt draft too",
)
def drafts_in_mid_prompt(original: Any) -> Any:
    def broken(speculator: Any, batch: int, step: Any, num_sampled: torch.Tensor, *rest: Any) -> None:
        original(speculator, batch, step, torch.ones_like(num_sampled), *rest)

    return broken


@faults.at(
    "nemo_rl_efficientrollout.engine.speculator_v2:TwinSpeculator._take_over",
    "tests/unit/test_speculator_v2.py::test_each_draft_continues_the_last_on_the_target_s_cache",
    "on runner V2 drafts go on behind rejected tokens",
)
def v2_drafts_follow_rejected_tokens(original: Any) -> Any:
    def broken(speculator: Any, batch: int, step: Any, sampled: Any, num_rejected: torch.Tensor, *rest: Any) -> None:
        original(speculator, batch, step, sampled, torch.zeros_like(num_rejected), *rest)

    return broken
