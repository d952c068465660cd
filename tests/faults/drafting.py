"""Engines that draft always, and whether one drafts as it should."""

from typing import Any

from vllm import LLM

from tests.engines import Prompts, core_of, difference, generate, set_gate, stats

GAMMA = 3
FIXED: dict[str, Any] = {"mode": "fixed", "draft_length": GAMMA}
SETTINGS: dict[str, Any] = {"drafter": {"format": "int8"}, "draft_length": {"max": GAMMA}, "gate": FIXED}
FRESH = "right tokens, fresh drafts"


def drafts_of(llm: LLM, batch: Prompts, expected: list[list[int]]) -> str:
    """FRESH if the engine decodes `expected` with many good drafts of its present weights; else what is wrong."""
    before = stats(llm)
    set_gate(llm, **FIXED)
    tokens = generate(llm, batch, len(expected[0]))
    after = stats(llm)
    drafted, accepted = (difference(after, before, key) for key in ("drafted_tokens", "accepted_tokens"))
    if before["drafter_problem"] or before["drafter_version"] != before["policy_version"]:
        return f"not fresh: {before['drafter_problem']}"
    if tokens != expected:
        return "wrong tokens"
    return FRESH if accepted > 0.7 * drafted > 0 else f"{accepted} of {drafted} drafts accepted"


def give_up_requests(llm: LLM) -> None:
    """After an error inside a step: drop what was in flight, in the front end and in the engine's core."""
    front = llm.llm_engine
    front.abort_request(list(front.output_processor.request_states), internal=True)
    core_of(llm).abort_requests(list(core_of(llm).scheduler.requests))
