"""NeMo-RL's asynchronous Ray actor with speculation: the engine core is a process of its own there."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import engines
from tests.models import VOCABULARY, weights_of
from tests.nemo_rl import actors

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("nemo_rl")]
NEW_TOKENS = 128
"""Long enough for a refit to come before the last."""
SETTINGS = {"drafter": {"format": "int8"}, "draft_length": {"max": 3}, "gate": {"mode": "fixed", "draft_length": 3}}
BATCH = engines.prompts(6, VOCABULARY, longest=30)
PROMPTS = [prompt["prompt_token_ids"] for prompt in BATCH]


@pytest.fixture(scope="module")
def policy(nemo_rl: Any, checkpoints: list[Path]) -> Iterator[Any]:
    """Refitted over IPC: the collective of a trainer elsewhere needs NCCL."""
    with actors.generation(
        checkpoints[0], SETTINGS, "vllm_cfg.async_engine=true", f"max_new_tokens={NEW_TOKENS}"
    ) as started:
        yield started


@pytest.fixture(scope="module")
def fresh(checkpoints: list[Path]) -> list[list[list[int]]]:
    """What stock vLLM generates greedily with each checkpoint."""
    return [engines.generate(engines.start(path), BATCH, NEW_TOKENS) for path in checkpoints[1:]]


def assert_generates(policy: Any, expected: list[list[int]]) -> None:
    """The answers that are expected, with drafts that were mostly kept."""
    before = actors.stats(policy)
    assert before["policy_version"] == before["drafter_version"]
    assert asyncio.run(actors.generate_each(policy, PROMPTS)) == expected
    after = actors.stats(policy)
    drafted, accepted = (after[key] - before[key] for key in ("drafted_tokens", "accepted_tokens"))
    assert accepted > 0.8 * drafted > 0


def test_refits_in_turn_equal_fresh_engines(policy: Any, checkpoints: list[Path], fresh: list[list[list[int]]]) -> None:
    for version, (path, expected) in enumerate(zip(checkpoints[1:], fresh, strict=True), start=1):
        assert actors.refit(policy, weights_of(path))
        assert actors.stats(policy)["drafter_version"] == version
        assert policy.invalidate_kv_cache()
        assert_generates(policy, expected)


def test_a_refit_while_requests_are_in_flight_leaves_a_fresh_drafter(
    policy: Any, checkpoints: list[Path], fresh: list[list[list[int]]]
) -> None:
    """As with NeMo-RL's `in_flight_weight_updates`: running requests go on with the new weights."""
    before = actors.stats(policy)

    async def refit_meanwhile() -> tuple[list[list[int]], int]:
        running = asyncio.create_task(actors.generate_each(policy, PROMPTS * 8))
        while actors.stats(policy)["decode_steps"] < before["decode_steps"] + 3:
            await asyncio.sleep(0)
        assert await asyncio.to_thread(actors.refit, policy, weights_of(checkpoints[1]))
        steps = actors.stats(policy)["decode_steps"]
        return await running, steps

    tokens, steps = asyncio.run(refit_meanwhile())
    after = actors.stats(policy)
    assert after["decode_steps"] > steps  # the refit came before the last answer
    assert after["policy_version"] == after["drafter_version"] == before["policy_version"] + 1
    assert [len(answer) for answer in tokens] == [NEW_TOKENS] * len(tokens)
    assert policy.invalidate_kv_cache()
    assert_generates(policy, fresh[0])
