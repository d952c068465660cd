"""Rows of drafted distributions: whoever drafted finds its own, whoever did not finds nobody else's."""

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from nemo_rl_efficientrollout.engine.draft_logits import DraftLogits, verify_with

STATES, ROWS, LENGTHS, VOCABULARY = 12, 5, 3, 7
batches = st.lists(st.integers(0, STATES - 1), unique=True, min_size=1, max_size=ROWS)


def new() -> DraftLogits:
    return DraftLogits.allocate(ROWS, STATES, LENGTHS, VOCABULARY, torch.float32, torch.device("cpu"))


def test_holds_rows_for_those_that_draft_not_for_all_requests() -> None:
    assert new().logits.shape == (ROWS, LENGTHS, VOCABULARY)


@given(st.lists(batches, min_size=1, max_size=4), st.permutations(range(STATES)))
def test_every_request_finds_its_own_values_and_no_other(drafting: list[list[int]], order: list[int]) -> None:
    drafts = new()
    for batch in drafting:
        drafts.claim(torch.tensor(batch))
    states = torch.tensor(order)
    index, drafted = drafts.index(states)
    last = drafting[-1]
    assert index[drafted].tolist() == [last.index(state) for state in order if state in last]
    assert {state for state, did in zip(order, drafted.tolist(), strict=True) if did} == set(last)
    assert len(set(index.tolist())) == STATES
    values = torch.rand(STATES)
    assert torch.equal(drafts.spread(values)[index], values[states])


def recorded(**arguments: Any) -> dict[str, Any]:
    """What reaches vLLM's sampler."""
    seen: dict[str, Any] = {}
    names = (
        *("target_logits", "draft_logits", "draft_sampled", "cu_num_logits", "pos", "idx_mapping"),
        *("expanded_idx_mapping", "expanded_local_pos", "temperature", "seed", "num_speculative_steps"),
    )

    def original(*args: Any, **kwargs: Any) -> None:
        seen.update(zip(names, args, strict=True), **kwargs)

    verify_with(original)(*(arguments[name] for name in names), use_fp64=True)
    return seen


def step(draft_logits: Any) -> dict[str, Any]:
    """Request states 7 with two drafts and 3 with none: three rows and one."""
    return {
        "target_logits": torch.zeros(4, VOCABULARY),
        "draft_logits": draft_logits,
        "draft_sampled": torch.arange(4),
        "cu_num_logits": torch.tensor([0, 3, 4]),
        "pos": torch.arange(4),
        "idx_mapping": torch.tensor([7, 3]),
        "expanded_idx_mapping": torch.tensor([7, 7, 7, 3], dtype=torch.int32),
        "expanded_local_pos": torch.tensor([0, 1, 2, 0], dtype=torch.int32),
        "temperature": torch.arange(STATES, dtype=torch.float32),
        "seed": torch.arange(STATES) + 100,
        "num_speculative_steps": LENGTHS,
    }


def test_verification_reads_the_row_of_who_drafted_and_no_draft_of_who_did_not() -> None:
    drafts = new()
    drafts.claim(torch.tensor([1, 7]))
    seen = recorded(**step(drafts))
    assert seen["draft_logits"] is drafts.logits
    assert seen["idx_mapping"].tolist() == [1, ROWS + 3]
    assert seen["expanded_idx_mapping"].tolist() == [1, 1, 1, ROWS + 3]
    assert seen["expanded_local_pos"].tolist() == [0, 1, 2, LENGTHS]
    assert seen["temperature"][seen["idx_mapping"]].tolist() == [7.0, 3.0]
    assert seen["seed"][seen["idx_mapping"]].tolist() == [107, 103]
    assert seen["use_fp64"] is True


def test_another_speculator_s_tensor_passes_untouched() -> None:
    given_step = step(torch.zeros(STATES, LENGTHS, VOCABULARY))
    seen = recorded(**given_step)
    assert all(seen[name] is value for name, value in given_step.items())
