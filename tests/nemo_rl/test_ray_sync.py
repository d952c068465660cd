"""NeMo-RL's synchronous Ray actor, untouched, through its driver's class: refits, metrics, shutdown."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import engines
from tests.models import VOCABULARY, weights_of
from tests.nemo_rl import actors
from tests.nemo_rl.configs import NEW_TOKENS

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("nemo_rl")]
LONGEST = 3
# The policy itself drafts: every draft must be accepted, so that the metrics are known beforehand.
SETTINGS = {
    "drafter": {"format": "bf16"},
    "draft_length": {"max": LONGEST},
    "gate": {"mode": "fixed", "draft_length": LONGEST},
}
BATCH = engines.prompts(6, VOCABULARY, longest=30)
PROMPTS = [prompt["prompt_token_ids"] for prompt in BATCH]


@pytest.fixture(scope="module")
def policy(nemo_rl: Any, checkpoints: list[Path]) -> Iterator[Any]:
    with actors.generation(checkpoints[0], SETTINGS) as started:
        yield started


def test_colocated_steps_equal_fresh_engines_and_report_metrics(policy: Any, checkpoints: list[Path]) -> None:
    for version, path in enumerate(checkpoints[1:], start=1):
        assert policy.prepare_for_generation(tags=["weights"])
        assert actors.refit(policy, weights_of(path))
        assert policy.prepare_for_generation(tags=["kv_cache"])
        now = actors.stats(policy)
        assert now["policy_version"] == now["drafter_version"] == version

        policy.snapshot_step_metrics()
        assert actors.generate(policy, PROMPTS) == engines.generate(engines.start(path), BATCH, NEW_TOKENS)
        metrics = policy.get_step_metrics()
        after = actors.stats(policy)
        made = after["drafts"] - now["drafts"]
        assert metrics["vllm/spec_num_drafts"] == made >= len(PROMPTS)
        assert metrics["vllm/spec_num_draft_tokens"] == after["drafted_tokens"] - now["drafted_tokens"]
        assert metrics["vllm/spec_num_accepted_tokens"] == metrics["vllm/spec_num_draft_tokens"] > 0
        assert metrics["vllm/spec_acceptance_rate"] == 1.0
        assert metrics["vllm/spec_acceptance_length"] == 1 + metrics["vllm/spec_num_draft_tokens"] / made
        assert metrics["vllm/spec_acceptance_rate-pos-1"] == 1.0  # the answer's last drafts may be shorter
        assert 0.8 < metrics[f"vllm/spec_acceptance_rate-pos-{LONGEST}"] <= 1.0
        assert policy.finish_generation()
        assert actors.stats(policy)["drafter_problem"] == "the engine sleeps"
    assert policy.prepare_for_generation()
    assert policy.invalidate_kv_cache()
    assert actors.stats(policy)["drafter_problem"] == ""


def test_a_failed_refit_is_reported_to_the_driver(policy: Any, checkpoints: list[Path]) -> None:
    weights = weights_of(checkpoints[1])
    weights.popitem()
    assert not actors.refit(policy, weights)
    now = actors.stats(policy)
    assert now["drafter_problem"].endswith("update_weights_via_ipc_zmq reported a failure")
    actors.generate(policy, PROMPTS)
    assert actors.stats(policy)["drafts"] == now["drafts"]
    assert actors.refit(policy, weights_of(checkpoints[1]))
    assert actors.stats(policy)["drafter_problem"] == ""


def test_shutdown(policy: Any) -> None:
    """Last: the fixture's actor is gone afterwards."""
    assert policy.shutdown()
