"""Refits that fail half-way in NeMo-RL's own receiver: no draft, and the reason; the next complete refit heals."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engines import prompts as random_prompts
from tests.models import VOCABULARY, weights_of
from tests.nemo_rl.worker import Weights, address_of, batch, refit, refitted_worker, sending, stats

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("nemo_rl")]
SETTINGS = {"drafter": {"format": "int8"}, "draft_length": {"max": 3}, "gate": {"mode": "fixed", "draft_length": 3}}
PROMPTS = [prompt["prompt_token_ids"] for prompt in random_prompts(8, VOCABULARY, longest=30)]
Stream = Iterator[tuple[str, torch.Tensor]]


@pytest.fixture(scope="module")
def worker(nemo_rl: Any, checkpoints: list[Path]) -> Iterator[Any]:
    with refitted_worker(checkpoints[0], SETTINGS) as started:
        yield started


def drafted_and_accepted(worker: Any) -> tuple[int, int]:
    before = stats(worker)
    worker.generate(batch(PROMPTS), greedy=True)
    after = stats(worker)
    return after["drafted_tokens"] - before["drafted_tokens"], after["accepted_tokens"] - before["accepted_tokens"]


def assert_drafts(worker: Any) -> None:
    now = stats(worker)
    assert now["policy_version"] == now["drafter_version"]
    drafted, accepted = drafted_and_accepted(worker)
    assert accepted > 0.8 * drafted > 0


def ends_early(weights: Weights) -> Stream:
    """The trainer completes a stream without the last third of the tensors."""
    yield from list(weights.items())[: 2 * len(weights) // 3]


def of_wrong_shape(weights: Weights) -> Stream:
    """One tensor in the middle is not what was announced, as after a change of model."""
    for name, tensor in weights.items():
        yield name, tensor[:-8].clone() if name == "model.layers.1.mlp.up_proj.weight" else tensor


def unannounced(weights: Weights) -> Stream:
    """A name that the worker was not told of."""
    yield from list(weights.items())[:5]
    yield "model.layers.9.mlp.up_proj.weight", torch.zeros(8, 8)


@pytest.mark.parametrize("fault", [ends_early, of_wrong_shape, unannounced])
def test_a_faulty_stream_ends_drafting_and_the_next_refit_heals(
    worker: Any, checkpoints: list[Path], fault: Callable[[Weights], Stream]
) -> None:
    assert refit(worker, weights_of(checkpoints[1]).items()) is True
    assert_drafts(worker)
    version = stats(worker)["policy_version"]

    assert refit(worker, fault(weights_of(checkpoints[2]))) is False
    now = stats(worker)
    assert now["policy_version"] == version + 1 != now["drafter_version"]
    assert now["drafter_problem"] == f"policy version {version + 1}: update_weights_via_ipc_zmq reported a failure"
    assert drafted_and_accepted(worker)[0] == 0

    assert refit(worker, weights_of(checkpoints[2]).items()) is True
    assert stats(worker)["drafter_version"] == version + 2
    assert_drafts(worker)


def test_a_trainer_that_dies_half_way_ends_drafting(
    worker: Any, checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NeMo-RL's receiver waits two minutes for it; here a second."""
    import zmq

    def dies(weights: Weights) -> Stream:
        yield from list(weights.items())[:8]
        raise ConnectionError("the trainer is gone")

    assert refit(worker, weights_of(checkpoints[1]).items()) is True
    receiver = worker.llm.collective_rpc(lambda worker: worker.zmq_socket)[0]
    receiver.setsockopt(zmq.RCVTIMEO, 1000)
    address = address_of(worker)
    answers: list[bool] = []
    with (
        pytest.raises(ConnectionError, match="the trainer is gone"),
        sending(address, dies(weights_of(checkpoints[2])), bucket_bytes=1024),
    ):
        answers.append(worker.update_weights_via_ipc_zmq())
    assert answers == [False]
    assert "reported a failure" in stats(worker)["drafter_problem"]
    assert drafted_and_accepted(worker)[0] == 0
    receiver.setsockopt(zmq.RCVTIMEO, 60_000)
    assert refit(worker, weights_of(checkpoints[2]).items()) is True
    assert_drafts(worker)


def test_sleep_does_not_heal_a_failed_refit(worker: Any, checkpoints: list[Path]) -> None:
    assert refit(worker, ends_early(weights_of(checkpoints[1]))) is False
    worker.sleep()
    worker.wake_up()
    assert "reported a failure" in stats(worker)["drafter_problem"]
    assert drafted_and_accepted(worker)[0] == 0
