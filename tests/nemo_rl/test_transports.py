# pyright: reportMissingImports=false
"""Every other way by which NeMo-RL's worker extension changes weights makes the drafter anew, exactly once."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import engines
from tests.models import VOCABULARY, weights_of
from tests.nemo_rl.configs import NEW_TOKENS
from tests.nemo_rl.transports import (
    DeltaTrainer,
    Line,
    broadcast_packed,
    checkpoint_engine,
    handed_over,
    reshard,
    reshard_info,
)
from tests.nemo_rl.worker import (
    Weights,
    answers,
    batch,
    count_refills,
    inner_worker,
    refitted_worker,
    shapes,
    state_of,
    stats,
)

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("nemo_rl")]
SETTINGS = {"drafter": {"format": "int8"}, "draft_length": {"max": 3}, "gate": {"mode": "fixed", "draft_length": 3}}
PROMPTS = [prompt["prompt_token_ids"] for prompt in engines.prompts(8, VOCABULARY, longest=30)]
PLUG_IN = f"{checkpoint_engine.__module__}:{checkpoint_engine.__name__}"


@pytest.fixture(scope="module")
def worker(nemo_rl: Any, checkpoints: list[Path]) -> Iterator[Any]:
    """One that has all of NeMo-RL's transports: those of the extension for checkpoint engines are a superset."""
    with refitted_worker(checkpoints[0], SETTINGS, plug_in=PLUG_IN) as started:
        started.checkpoint_engine_rpc("init_checkpoint_engine", (PLUG_IN, 1 << 20, {}))
        yield started


@pytest.fixture(scope="module")
def fresh(nemo_rl: Any, checkpoints: list[Path]) -> list[list[int]]:
    """What stock vLLM generates greedily with the checkpoint that is sent."""
    batch = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    return engines.generate(engines.start(checkpoints[1]), batch, NEW_TOKENS)


Send = Callable[[Any, Weights, Weights], Any]


def by_collective(worker: Any, new: Weights, old: Weights) -> Any:
    line = inner_worker(worker).model_update_group = Line()
    broadcast_packed(line, new)
    assert len(line.sent) > 3
    return worker.update_weights_from_collective()


def by_resharding(worker: Any, new: Weights, old: Weights) -> Any:
    inner = inner_worker(worker)
    inner.model_update_group, bulk = Line(), Line()
    inner.pp_comm_groups = {0: bulk}
    worker.prepare_nccl_reshard_refit_info(reshard_info(new))
    reshard(bulk, inner.model_update_group, new)
    return worker.nccl_reshard_refit()


def by_checkpoint_engine(worker: Any, new: Weights, old: Weights) -> Any:
    asyncio.run(checkpoint_engine(1 << 20).send_weights(iter(new.items())))
    assert len(handed_over) > 3
    return worker.checkpoint_engine_rpc("update_weights_from_checkpoint_engine")


def by_changes(encoding: str) -> Send:
    def send(worker: Any, new: Weights, old: Weights) -> Any:
        rpc, trainer = worker.llm.collective_rpc, DeltaTrainer(old, encoding)
        version = stats(worker)["policy_version"]
        assert rpc("prepare_sparse_delta_refit_info", args=(shapes(old),)) == [[]]
        assert stats(worker)["policy_version"] == version
        assert state_of(worker).ready  # nothing has changed yet
        for payload in trainer.payloads(new, 3):
            assert rpc("update_weights_from_decoded_sparse_payload", args=(payload,))[0]["ok"]
            assert not state_of(worker).ready
        answer = rpc("finish_sparse_delta_refit")[0]
        assert answer["verification_samples"] > 0
        return answer["ok"] and not answer["verification_mismatches"]

    return send


@pytest.mark.parametrize(
    "send",
    [
        pytest.param(by_collective, id="collective"),
        pytest.param(by_resharding, id="nccl_reshard"),
        pytest.param(by_checkpoint_engine, id="checkpoint_engine"),
        pytest.param(by_changes("xor"), id="sparse_xor"),
        pytest.param(by_changes("overwrite"), id="sparse_overwrite"),
    ],
)
def test_every_transport_makes_the_drafter_anew_once(
    worker: Any, checkpoints: list[Path], fresh: list[list[int]], monkeypatch: pytest.MonkeyPatch, send: Send
) -> None:
    monkeypatch.setenv("NRL_XFERDTENSOR_GOLDEN", "1")  # NeMo-RL's reference for its NCCL kernel
    old = weights_of(checkpoints[2])
    old["model.norm.weight"][::2] *= 2  # so that of one tensor only a part changes
    assert by_collective(worker, old, {}) is True
    version, made = stats(worker)["policy_version"], count_refills(worker, monkeypatch)

    assert send(worker, weights_of(checkpoints[1]), old) is True
    now = stats(worker)
    assert now["drafter_problem"] == ""
    assert now["policy_version"] == now["drafter_version"] == version + 1
    assert set(made.values()) == {1}

    worker.reset_prefix_cache()
    assert answers(PROMPTS, worker.generate(batch(PROMPTS), greedy=True)) == fresh
    after = stats(worker)
    drafted, accepted = (after[key] - now[key] for key in ("drafted_tokens", "accepted_tokens"))
    assert accepted > 0.8 * drafted > 0


def test_a_damaged_delta_leaves_plain_decoding_until_the_next_refit(worker: Any, checkpoints: list[Path]) -> None:
    old = weights_of(checkpoints[2])
    assert by_collective(worker, old, {}) is True
    with pytest.raises(Exception, match=r"pickle|archive"):
        worker.llm.collective_rpc("update_weights_from_decoded_sparse_payload", args=(b"damaged",))
    assert "update_weights_from_decoded_sparse_payload raised" in stats(worker)["drafter_problem"]
    before = stats(worker)["drafted_tokens"]
    worker.generate(batch(PROMPTS), greedy=True)
    assert stats(worker)["drafted_tokens"] == before
    assert by_collective(worker, old, {}) is True
    assert stats(worker)["drafter_problem"] == ""


def test_both_extensions_methods_are_on_the_mixed_worker(worker: Any) -> None:
    """vLLM adds the extension to its worker's bases before the worker, whose methods are watched, is made."""
    from nemo_rl.models.generation.vllm.vllm_backend import VllmInternalWorkerExtensionWithCheckpointEngine as Extension

    from nemo_rl_efficientrollout.engine.entry_points import ENTRY_POINTS, REHEARSALS

    inner = inner_worker(worker)
    assert isinstance(inner, Extension)
    assert callable(inner.efficientrollout_stats)
    of_nemo_rl = [name for name in (*ENTRY_POINTS, *REHEARSALS) if hasattr(Extension, name)]
    assert len(of_nemo_rl) == 7
    for name in of_nemo_rl:
        assert vars(inner)[name].__wrapped__.__func__ is getattr(Extension, name)
