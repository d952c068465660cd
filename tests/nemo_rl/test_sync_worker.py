# pyright: reportMissingImports=false
"""NeMo-RL's own synchronous worker: what it generates, and that its refits leave a fresh drafter."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engines import prompts as random_prompts
from tests.models import VOCABULARY, weights_of
from tests.nemo_rl.configs import CONTEXT, NEW_TOKENS, PAD
from tests.nemo_rl.worker import batch, colocated_refit, count_refills, refitted_worker, start_worker, state_of, stats

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("nemo_rl")]
LONGEST = 4
PROMPTS = [prompt["prompt_token_ids"] for prompt in random_prompts(12, VOCABULARY, shortest=3, longest=40)]


def settings(form: str) -> dict[str, Any]:
    return {
        "drafter": {"format": form},
        "draft_length": {"max": LONGEST},
        "gate": {"mode": "fixed", "draft_length": LONGEST},
    }


@pytest.fixture(scope="module", params=["bf16", "int8"])
def worker(request: Any, nemo_rl: Any, checkpoints: list[Path]) -> Iterator[Any]:
    with refitted_worker(checkpoints[0], settings(request.param)) as started:
        started.form = request.param
        yield started


@pytest.fixture(scope="module")
def fresh(nemo_rl: Any, checkpoints: list[Path]) -> Iterator[dict[Path, Any]]:
    """What engines that loaded the checkpoints generate greedily, without this package."""
    loaded = {path: start_worker(path, None, trained=False) for path in checkpoints[1:]}
    yield {path: worker.generate(batch(PROMPTS), greedy=True) for path, worker in loaded.items()}
    loaded.clear()  # not earlier: with an engine vLLM tears down the process-wide groups of all others


def greedy(worker: Any) -> tuple[Any, int, int]:
    """Greedy answers, drafts made and drafts accepted on the way."""
    before = stats(worker)
    answer = worker.generate(batch(PROMPTS), greedy=True)
    after = stats(worker)
    drafted, accepted = (after[key] - before[key] for key in ("drafted_tokens", "accepted_tokens"))
    return answer, drafted, accepted


def test_refits_in_turn_equal_fresh_engines_and_remake_the_drafter_once_each(
    worker: Any, checkpoints: list[Path], fresh: dict[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nemo_rl.models.generation.interfaces import verify_right_padding

    made = count_refills(worker, monkeypatch)
    version = stats(worker)["policy_version"]
    for count, path in enumerate([*checkpoints[1:], checkpoints[1]], start=1):
        assert colocated_refit(worker, weights_of(path)) is True
        now = stats(worker)
        assert now["policy_version"] == now["drafter_version"] == version + count
        assert now["drafter_problem"] == ""
        assert set(made.values()) == ({count} if worker.form == "int8" else set())  # bf16 is the policy itself
        answer, drafted, accepted = greedy(worker)
        verify_right_padding(answer, pad_value=PAD)
        assert torch.equal(answer["output_ids"], fresh[path]["output_ids"])
        assert torch.equal(answer["generation_lengths"], torch.full((len(PROMPTS),), NEW_TOKENS))
        torch.testing.assert_close(answer["logprobs"], fresh[path]["logprobs"], rtol=0, atol=1e-5)
        assert drafted > 0
        assert accepted == drafted if worker.form == "bf16" else accepted > 0.8 * drafted


def test_a_drafter_left_behind_never_drafts(
    worker: Any, checkpoints: list[Path], fresh: dict[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault: after a refit nobody remakes the drafter."""
    with monkeypatch.context() as broken:
        broken.setattr(state_of(worker), "_complete", lambda: None)
        assert colocated_refit(worker, weights_of(checkpoints[2])) is True
    now = stats(worker)
    assert now["drafter_version"] != now["policy_version"]
    assert "arriving" in now["drafter_problem"]
    answer, drafted, _ = greedy(worker)
    assert drafted == 0
    assert torch.equal(answer["output_ids"], fresh[checkpoints[2]]["output_ids"])


def test_acceptance_would_collapse_if_a_refit_left_the_drafter_as_it_was(
    worker: Any, checkpoints: list[Path], fresh: dict[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault: refits count, but no layer is quantized again. NeMo-RL itself remakes no drafter but MTP's."""
    if worker.form == "bf16":
        pytest.skip("its drafter is the policy itself: nothing could be left")
    assert colocated_refit(worker, weights_of(checkpoints[1])) is True
    with monkeypatch.context() as broken:
        broken.setattr(state_of(worker)._requantizer, "quantize", lambda layers: None)
        assert colocated_refit(worker, weights_of(checkpoints[2])) is True
    answer, drafted, accepted = greedy(worker)
    assert accepted < 0.2 * drafted
    assert torch.equal(answer["output_ids"], fresh[checkpoints[2]]["output_ids"])

    assert colocated_refit(worker, weights_of(checkpoints[2])) is True
    _, drafted, accepted = greedy(worker)
    assert accepted > 0.8 * drafted > 0


def test_sleep_without_a_refit_keeps_the_versions_and_remakes_the_drafter(
    worker: Any, checkpoints: list[Path], fresh: dict[Path, Any]
) -> None:
    assert colocated_refit(worker, weights_of(checkpoints[1])) is True
    version = stats(worker)["policy_version"]
    worker.sleep()
    assert stats(worker)["drafter_problem"] == "the engine sleeps"
    worker.wake_up()
    now = stats(worker)
    assert (now["policy_version"], now["drafter_version"], now["drafter_problem"]) == (version, version, "")
    answer, drafted, accepted = greedy(worker)
    assert torch.equal(answer["output_ids"], fresh[checkpoints[1]]["output_ids"])
    assert accepted > 0.8 * drafted > 0


def test_answers_end_before_the_context_by_the_longest_draft(worker: Any) -> None:
    lengths = [CONTEXT - 60, CONTEXT - 12, CONTEXT - 8, CONTEXT - LONGEST - 1]
    room = [NEW_TOKENS, 12 - LONGEST - 1, 8 - LONGEST - 1, 1]
    answer = worker.generate(batch([[3] * length for length in lengths]), greedy=True)
    assert answer["generation_lengths"].tolist() == room
    assert answer["unpadded_sequence_lengths"].tolist() == [a + b for a, b in zip(lengths, room, strict=True)]
    assert answer["truncated"].tolist() == [True] * len(lengths)


def test_shutdown(worker: Any) -> None:
    """Last: the fixture's worker is gone afterwards."""
    assert worker.shutdown() is True
    assert worker.llm is None
