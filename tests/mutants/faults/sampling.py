"""Rejection sampling that no longer is exact."""

from typing import Any

import torch

from tests.mutants.fault import Faults

faults = Faults()
SAMPLER, KERNELS = "vllm.v1.sample.rejection_sampler:", "vllm.utils.cpu_triton_utils:"
PROPOSER = "nemo_rl_efficientrollout.engine.proposer_v1:"
TAKEN = PROPOSER + "TwinProposer.take_last_draft_probs"
JOINT = "tests/lossless/test_sampling.py::test_drafters_and_draft_lengths[often wrong-5]"
RULE = "tests/lossless/test_rejection_rule.py::test_every_token_follows_the_one_before_as_the_target_says"
FIRST, LAST = f"{RULE}[1]", f"{RULE}[3]"


@faults.at(KERNELS + "_rejection_random_sample_kernel_impl", FIRST, "every draft is accepted")
def accept_all(original: Any) -> Any:
    def broken(out: Any, cu: Any, drafts: Any, q: Any, p: Any, bonus: Any, recovered: Any, uniform: Any, *rest: Any):
        original(out, cu, drafts, q, p, bonus, recovered, torch.zeros_like(uniform), *rest)

    return broken


@faults.at(KERNELS + "_rejection_random_sample_kernel_impl", FIRST, "one draft more is accepted than the rule admits")
def accept_one_more(original: Any) -> Any:
    def broken(out: Any, cu: Any, drafts: Any, q: Any, p: Any, bonus: Any, recovered: Any, uniform: Any, *rest: Any):
        right = out.clone()
        original(right, cu, drafts, q, p, bonus, recovered, uniform, *rest)
        kept = (right >= 0).sum(dim=1) - 1
        counts = torch.diff(cu, prepend=cu.new_zeros(1))
        rejected = (cu - counts + kept)[kept < counts]
        uniform = uniform.clone()
        uniform[rejected.long()] = 0.0
        original(out, cu, drafts, q, p, bonus, recovered, uniform, *rest)

    return broken


@faults.at(
    KERNELS + "_sample_recovered_tokens_kernel_impl",
    FIRST,
    "a rejected draft is replaced from p, not from max(0, p - q)",
)
def recover_from_target(original: Any) -> Any:
    def broken(out: Any, cu: Any, drafts: Any, q: Any, *rest: Any) -> None:
        original(out, cu, drafts, torch.zeros_like(q), *rest)

    return broken


@faults.at(TAKEN, JOINT, "drafts are judged by the distributions of a step ago")
def stale_probabilities(original: Any) -> Any:
    last: list[Any] = []

    def broken(proposer: Any) -> Any:
        now = original(proposer)
        before = last.pop() if last else now
        last.append(now)
        same = now is not None and before is not None and before.shape == now.shape
        return before if same else now

    return broken


@faults.at(TAKEN, JOINT, "drafts are judged by another request's distributions")
def probabilities_of_another_request(original: Any) -> Any:
    def broken(proposer: Any) -> Any:
        now = original(proposer)
        return None if now is None else now.roll(1, dims=0)

    return broken


@faults.at(SAMPLER + "rejection_sample", LAST, "the bonus token is that of the row above")
def bonus_of_another_row(original: Any) -> Any:
    def broken(*arguments: Any, **named: Any) -> Any:
        before, bonus, rest = arguments[:6], arguments[6], arguments[7:]
        return original(*before, bonus.roll(1, dims=0).contiguous(), *rest, **named)

    return broken


@faults.at(
    PROPOSER + "draw",
    "tests/engine/test_draw.py::test_frequencies_follow_the_distribution",
    "all requests of a batch draw with the same random number",
)
def one_random_number_for_all(original: Any) -> Any:
    def broken(probabilities: Any, generators: Any) -> Any:
        cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
        uniform = torch.rand(1, 1, dtype=torch.float64).expand(len(probabilities), 1)
        return torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True).squeeze(1)

    return broken


@faults.at(PROPOSER + "draw", FIRST, "the likeliest token is drafted, but said to be drawn from the distribution")
def draft_greedily(original: Any) -> Any:
    return lambda probabilities, generators: probabilities.argmax(dim=-1)


@faults.at(
    PROPOSER + "apply_top_k_top_p",
    "tests/engine/test_plugin.py::test_sampling_filters_apply_to_drafts_too",
    "drafts are drawn without the request's top-k and top-p",
)
def drafts_without_filters(original: Any) -> Any:
    return lambda logits, k, p: logits


@faults.at(
    "nemo_rl_efficientrollout.engine.compat.v2_vllm_0_32_0:gumbel_sample",
    "tests/v2/test_twin_sampling.py::test_drafts_do_not_share_their_noise_with_verification",
    "on runner V2 a draft and its replacement are drawn with the same noise",
)
def noise_shared_with_recovery(original: Any) -> Any:
    return lambda *arguments, **named: original(*arguments, **(named | {"is_drafting": False}))


@faults.at(
    "nemo_rl_efficientrollout.engine.draft_logits:DraftLogits.index",
    "tests/unit/test_draft_logits.py::test_every_request_finds_its_own_values_and_no_other",
    "on runner V2 a request that did not draft is given the row of one that did",
)
def row_without_an_owner(original: Any) -> Any:
    def broken(kept: Any, states: Any) -> Any:
        rows = kept.row[states.to(torch.int64)]
        return rows, torch.ones_like(rows, dtype=torch.bool)

    return broken
