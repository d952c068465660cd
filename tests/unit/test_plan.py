"""The planner: what its guess is made of, and laws that its forecasts must keep."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from nemo_rl_efficientrollout.drafter.formats import FORMATS
from nemo_rl_efficientrollout.drafter.size import drafter_size, policy_size
from nemo_rl_efficientrollout.errors import UserError
from nemo_rl_efficientrollout.plan import Scenario, Spread, Way, assumptions, forecast
from nemo_rl_efficientrollout.plan.assumptions import MACHINE, REQUEST_US, Range, draws
from nemo_rl_efficientrollout.plan.deals import deals
from nemo_rl_efficientrollout.plan.gpus import GPUS, gpu_named, missing_kernel
from nemo_rl_efficientrollout.plan.lengths import Lengths
from nemo_rl_efficientrollout.plan.machine import guessed, measured
from nemo_rl_efficientrollout.plan.memory import RESERVE_BYTES, memory
from nemo_rl_efficientrollout.plan.models import MODELS, read_model
from nemo_rl_efficientrollout.plan.policy import BestWithin
from nemo_rl_efficientrollout.plan.presets import PRESETS, PROMPT, preset, request_us
from nemo_rl_efficientrollout.plan.sweep import points
from nemo_rl_efficientrollout.plan.weights import forward
from nemo_rl_efficientrollout.simulate import (
    AcceptanceCurve,
    Best,
    Fixed,
    ModelCosts,
    at_once,
    cluster,
    replay,
)
from tests import sweeps
from tests.proof import Proof

MIDDLE = dict.fromkeys([*MACHINE, "rejected"], 0.0)
QWEN_7B, H100, A100 = read_model("qwen2.5-7b"), GPUS["h100"], GPUS["a100"]
CHANCE = np.random.default_rng(0)
TOKENS = np.minimum(np.ceil(CHANCE.lognormal(5, 0.8, 500)), 1500).astype(int)
SHORT = Lengths.of("short", "made up", np.bincount(TOKENS).tolist())
SMALL = Scenario(QWEN_7B, H100, SHORT, ("int4", "int8"), engines=4, prompts=16, samples=4)
FEW = 6


def one(value: float) -> np.ndarray:
    return np.array([value])


def plan(scenario: Scenario, count: int = FEW) -> dict[str, Way]:
    found = forecast(scenario, FORMATS, count)
    return {way.name: way for way in (found.plain, *found.ways)}


def middle(spread: Spread | None) -> float:
    assert spread is not None
    return spread.middle


def width(spread: Spread | None) -> float:
    assert spread is not None
    return spread.high / spread.low


PARAMETERS = {
    "qwen2.5-0.5b": 0.494, "qwen2.5-1.5b": 1.54, "qwen2.5-7b": 7.62, "qwen2.5-14b": 14.77, "qwen2.5-32b": 32.76,
    "qwen2.5-72b": 72.71, "qwen3-4b": 4.02, "qwen3-8b": 8.19, "qwen3-14b": 14.77, "qwen3-32b": 32.76,
    "qwen3-30b-a3b": 30.53, "llama-3.1-8b": 8.03, "llama-3.1-70b": 70.55, "mixtral-8x7b": 46.70,
}  # fmt: skip
"""Billions, as published with the models."""


def test_named_models_have_the_published_number_of_parameters() -> None:
    assert PARAMETERS.keys() == MODELS.keys()
    for name, billions in PARAMETERS.items():
        weights = sum(policy_size(read_model(name).shape(1)).values()) / 2e9
        assert weights == pytest.approx(billions, rel=3e-3), name


@pytest.mark.parametrize(
    ("cause", "names"),
    [
        (lambda: gpu_named("h10"), "did you mean 'h100'"),
        (lambda: gpu_named("tpu"), "known: a100, h100, h200, b200"),
        (lambda: read_model("Qwen/Qwen2.5-8B"), r"did you mean 'qwen2.5-\d+b'"),
        (lambda: preset("math-qwen2.5-8b"), "did you mean 'math-qwen2.5-7b'"),
        (lambda: plan(replace(SMALL, tensor_parallel=3)), "does not divide among 3 GPUs"),
        (lambda: replace(SMALL, stragglers=5), "5 stragglers of 4 engines"),
        (lambda: Range(0.0, 1.0, ""), "two positive numbers"),
        (lambda: points(SMALL, ["alfa=0.9"]), "did you mean 'alpha'"),
        (lambda: points(SMALL, ["alpha=1"]), "alpha=1: expected a number above 0 and below 1"),
        (lambda: points(SMALL, ["batch=1.5"]), "1.5 is no whole number"),
        (lambda: points(SMALL, ["batch=9"]), "no multiple of"),
        (lambda: points(SMALL, ["tp=3"]), "4 GPUs do not divide"),
        (lambda: points(SMALL, ["format=int9"]), "did you mean 'int8'"),
        (lambda: points(SMALL, ["batch="]), "expected 1 to 16 values"),
    ],
)
def test_bad_input_is_one_line_that_names_it(cause: Callable[[], object], names: str) -> None:
    if "multiple" in names:
        cause = lambda: points(replace(SMALL, engines=3), ["batch=9"])  # noqa: E731
    with pytest.raises(UserError, match=names) as raised:
        cause()
    assert "\n" not in str(raised.value)


def test_instruct_models_have_the_architecture_of_their_base() -> None:
    assert read_model("Qwen/Qwen2.5-7B-Instruct").config is QWEN_7B.config


@pytest.mark.parametrize("form", [None, "int4", "int8", "fp8_block"])
@pytest.mark.parametrize("tensor_parallel", [1, 4])
def test_memory_adds_up_to_the_engines_share(form: str | None, tensor_parallel: int) -> None:
    scenario = replace(SMALL, tensor_parallel=tensor_parallel)
    found, shape = memory(scenario, FORMATS[form] if form else None), QWEN_7B.shape(tensor_parallel)
    assert found.policy == sum(policy_size(shape).values())
    assert found.drafter == (drafter_size(shape, FORMATS[form]).total if form else 0)
    parts = found.policy + found.drafter + found.distributions + found.kv + RESERVE_BYTES
    assert parts == pytest.approx(0.6 * 80e9)
    assert found.token_bytes == 57344 / tensor_parallel  # published for this model
    assert found.kv_tokens == int(found.kv / found.token_bytes)


def test_what_does_not_fit_says_what_takes_the_room() -> None:
    large = replace(SMALL, model=read_model("qwen2.5-32b"))
    ways = plan(large)
    assert ways["plain"].rollout_s is None
    assert "policy 61.0 GiB" in (ways["plain"].refusal or "")
    assert "drafter" in (ways["int4"].refusal or "")
    assert ways["int8"].step_s is None
    assert all(way.refusal is None for way in plan(replace(large, engines=2, tensor_parallel=4)).values())


def test_formats_without_a_kernel_are_named() -> None:
    ways = plan(replace(SMALL, gpu=GPUS["b200"]))
    assert "up to 9.0" in (ways["int8"].refusal or "")
    assert ways["int4"].refusal is None
    assert missing_kernel(A100, "fp8_block")
    for name, form in FORMATS.items():  # what is said here is what the format says
        for gpu in GPUS.values() if name != "bf16" else ():
            if missing_kernel(gpu, name) is None:
                assert "NVIDIA" in form.hardware


def test_a_pass_reads_all_but_the_embedding() -> None:
    for name in ("qwen2.5-7b", "qwen3-8b"):
        shape = read_model(name).shape(1)
        parts = policy_size(shape)
        read = forward(shape, 0.0).bytes
        assert read == pytest.approx(sum(parts.values()) - parts["embedding"] - parts["norms"], rel=1e-4)


def test_more_rows_wake_more_experts_up_to_all() -> None:
    model = read_model("qwen3-30b-a3b")
    found = forward(model.shape(1), model.routed)
    one_row, two, many = found.read(np.array([1.0, 2.0, 1e6]))
    assert one_row == pytest.approx(found.bytes + found.expert_bytes / 16)
    assert two == pytest.approx(found.bytes + found.expert_bytes * (1 - (15 / 16) ** 2))
    assert many == pytest.approx(found.bytes + found.expert_bytes)
    assert 2.5e9 < found.flops / 2 < 3.5e9  # "A3B", the embedding aside


@pytest.mark.parametrize(
    ("name", "seconds"), [("qwen2.5-7b", 0.01045), ("qwen2.5-14b", 0.02031), ("llama-3.1-8b", 0.01366)]
)
def test_published_step_times_are_within_the_guess(name: str, seconds: float) -> None:
    normal, _ = draws(200, 0, 0)
    times = [float(guessed(read_model(name), A100, 1, None, z).plain(one(1), one(1024))[0]) for z in normal]
    low, high = np.quantile(times, [0.05, 0.95])
    assert low < seconds < high


def test_a_drafter_reads_fewer_weights_and_as_much_cache() -> None:
    for name in ("qwen2.5-7b", "qwen3-30b-a3b"):
        costs = guessed(read_model(name), H100, 1, FORMATS["int4"], MIDDLE)
        near, far = one(0.0), one(4000.0)
        cache = costs.plain(one(8), far) - costs.plain(one(8), near)
        assert costs.draft(one(8), far, one(5)) - costs.draft(one(8), near, one(5)) == pytest.approx(cache)
        assert costs.draft(one(1), near, one(5)) < costs.plain(one(1), near)
    whole = guessed(QWEN_7B, H100, 1, FORMATS["bf16"], MIDDLE)
    host_us = 28 * (MACHINE["draft_layer_us"].at(0) - MACHINE["target_layer_us"].at(0))
    host_us += (REQUEST_US["draft"] - REQUEST_US["plain"]) * MACHINE["request"].at(0)
    longer = whole.draft(one(1), one(0.0), one(5)) - whole.plain(one(1), one(0.0))
    assert longer == pytest.approx(1e-6 * host_us)  # the host apart, it is the policy itself


def test_a_measured_model_is_drawn_from_its_covariance() -> None:
    truth = sweeps.truth()
    still = measured(truth, np.zeros(truth.terms.size))
    for batch in (1.0, 30.0):
        assert still.plain(one(batch), one(500.0)) == pytest.approx(ModelCosts(truth).plain(one(batch), one(500.0)))
    wide = replace(truth, covariance=np.diag((0.05 * truth.mean) ** 2))
    rng = np.random.default_rng(0)
    times = [measured(wide, rng.standard_normal(wide.terms.size)).plain(one(8.0), one(500.0))[0] for _ in range(2000)]
    assert np.std(times) == pytest.approx(wide.deviation("plain", 8, 500.0), rel=0.1)
    ways = forecast(SMALL, FORMATS, FEW, calibration=("here", replace(truth, covariance=0 * truth.covariance)))
    assert ways.calibrated == "here"
    assert width(ways.plain.rollout_s) < 1.2  # only the deal is left to chance


@pytest.mark.parametrize("name", PRESETS)
def test_presets_complete_when_published_and_have_the_published_mean(name: str) -> None:
    """Within 1 % of the mean, and 5 % of the seconds until 50, 90 and 99 % are complete, and the last one."""
    published, found = PRESETS[name], preset(name)
    assert found.responses == 1024
    assert found.mean == pytest.approx(published.mean, rel=0.01)
    assert found.longest <= 8192
    costs, curve = published.costs(request_us(published)), AcceptanceCurve.constant(0.0, 1)
    lengths = found.spread(1024)
    parts = [at_once(np.full(128, int(PROMPT)), lengths[engine::8], 8) for engine in range(8)]
    ends = np.sort(np.concatenate([replay(part, costs, curve, Fixed(0)).finished for part in parts]))
    for share, seconds in published.completions:
        assert np.quantile(ends, share) == pytest.approx(seconds, rel=0.05), share
    if name == "math-qwen2.5-7b":  # the other one's last response is cut, 11 s before it is published to end
        assert ends[-1] == pytest.approx(published.last_s, rel=0.05)


def test_the_choice_of_a_draft_length_is_the_best_one_below_the_cap() -> None:
    costs, curve = guessed(QWEN_7B, H100, 1, FORMATS["int4"], MIDDLE), AcceptanceCurve.constant(0.95, 5)
    rng = np.random.default_rng(1)
    batch, context = rng.integers(1, 100, 500).astype(float), rng.uniform(1, 8000, 500)
    chosen = BestWithin(costs, curve, 64).plan(batch, context)
    best = np.where(batch <= 64, Best(costs, curve, range(6)).plan(batch, context), 0)
    assert np.mean(chosen == best) > 0.97  # contexts within 4 % are decided alike
    assert set(chosen[batch > 64]) == {0}


def test_every_token_is_generated_and_every_second_accounted_for() -> None:
    found = forecast(SMALL, FORMATS, 4)
    parts = {part.tokens for deal in deals(SMALL, guessed(QWEN_7B, H100, 1, None, MIDDLE), 4, 0) for part in deal.parts}
    assert found.rollouts.keys() == {"plain", "int4", "int8"}
    for rollout in found.rollouts.values():
        assert round(rollout.tokens) in parts
        spent = rollout.prefill_s + rollout.plain_s + rollout.draft_s + rollout.verify_s
        assert spent == pytest.approx(rollout.seconds)
    work = SMALL.workload(np.random.default_rng(3))
    assert sorted(work.response) == sorted(SHORT.spread(64).tolist())


def test_the_watched_engines_stand_for_hundreds() -> None:
    scenario = replace(SMALL, engines=128, prompts=1024, samples=4)
    costs, curve = guessed(QWEN_7B, H100, 1, FORMATS["int4"], MIDDLE), AcceptanceCurve.constant(0.96, 5)
    for deal in deals(scenario, costs, 2, 0):
        watched = deal.watched(range(len(deal.parts)))
        assert len(watched) <= 6
        for policy in (lambda: Fixed(0), lambda: BestWithin(costs, curve, 64)):
            seconds = np.array([replay(part, costs, curve, policy()).seconds for part in deal.parts])
            assert seconds[list(watched)].max() > 0.99 * seconds.max()


def test_more_engines_are_never_slower() -> None:
    found = [plan(replace(SMALL, engines=engines)) for engines in (1, 3, 8, 64)]
    for name in ("plain", "int4", "int8"):
        for before, after in pairwise(found):
            assert middle(after[name].rollout_s) <= 1.001 * middle(before[name].rollout_s), name
        assert middle(found[-1][name].rollout_s) < 0.95 * middle(found[0][name].rollout_s)


def test_more_acceptance_is_never_slower_and_none_leaves_plain_decoding() -> None:
    rates = (0.0, 0.7, 0.9, 0.97, 0.999)
    alone = replace(SMALL, formats=("int4",))
    found = [plan(replace(alone, rejected={"": Range(1 - rate, 1 - rate, "")}))["int4"] for rate in rates]
    for before, after in pairwise(found):
        for name in ("low", "middle", "high"):
            assert getattr(after.rollout_s, name) <= getattr(before.rollout_s, name) * (1 + 1e-9)
    assert middle(found[0].rollout_ratio) == pytest.approx(1.0, abs=1e-6)
    assert middle(found[0].speculating) == 0.0
    assert middle(found[-1].rollout_ratio) > 1.2


@pytest.mark.parametrize("name", ["bandwidth", "draft_layer_us", "request"])
def test_less_knowledge_is_never_a_narrower_range(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []
    for factor in (1.0, 1.5, 3.0):
        for known, spread in MACHINE.items():
            middle_value = (spread.low * spread.high) ** 0.5
            wide = factor if known == name else 1.0
            monkeypatch.setitem(assumptions.MACHINE, known, Range(middle_value / wide, middle_value * wide, ""))
        widths.append(width(plan(replace(SMALL, formats=("int4",)), 12)["int4"].rollout_s))
        monkeypatch.undo()
    assert widths[0] <= widths[1] < widths[2]


def test_an_engine_waits_for_its_stragglers() -> None:
    sound, all_slow = plan(SMALL), plan(replace(SMALL, stragglers=4, slowness=1.5))
    one_slow = plan(replace(SMALL, stragglers=1, slowness=1.5))
    for name in ("plain", "int4"):
        assert middle(all_slow[name].rollout_s) == pytest.approx(1.5 * middle(sound[name].rollout_s))
        assert middle(sound[name].rollout_s) < middle(one_slow[name].rollout_s) <= middle(all_slow[name].rollout_s)


def test_a_step_is_its_rollout_and_the_rest_unless_they_overlap() -> None:
    known = replace(SMALL, rest_seconds=30.0)
    together, apart = plan(known), plan(replace(known, lag=1))
    assert middle(together["plain"].step_s) == pytest.approx(middle(together["plain"].rollout_s) + 30.0)
    assert middle(together["int4"].step_s) > middle(together["int4"].rollout_s) + 30.0  # the drafter is made
    assert middle(apart["plain"].step_s) == pytest.approx(30.0)  # training sets the pace
    guess, more = plan(replace(SMALL, lag=1)), plan(replace(SMALL, lag=1, training_gpus=64))
    assert middle(more["plain"].step_s) <= middle(guess["plain"].step_s)
    assert middle(guess["plain"].step_s) <= middle(plan(SMALL)["plain"].step_s)


@pytest.mark.parametrize(
    ("model", "lengths", "utilization", "longest", "saved"),
    [
        ("qwen2.5-7b", "math-qwen2.5-7b", 0.6, 11, 0.196),
        ("llama-3.1-8b", "math-llama-3.1-8b", 0.6, 5, 0.107),
        pytest.param("qwen2.5-14b", "math-qwen2.5-7b", 0.7, 9, 0.168, marks=pytest.mark.full),
    ],
)
def test_published_savings_lie_within_the_range(
    model: str, lengths: str, utilization: float, longest: int, saved: float, proof: Proof
) -> None:
    scenario = Scenario(
        read_model(model), A100, preset(lengths), ("int4",), max_num_seqs=128, most_drafted_for=128,
        gpu_memory_utilization=utilization, max_draft_length=longest,
    )  # fmt: skip
    ratio = plan(scenario, 40)["int4"].rollout_ratio
    assert ratio is not None
    low, median, high = (round(1 - 1 / value, 3) for value in (ratio.low, ratio.middle, ratio.high))
    table = "savings of a rollout: measured on A100s (arXiv 2606.18967), and planned"
    proof.row(table, model=model, measured=saved, low=low, median=median, high=high)
    assert low < saved < high


SWEPT: list[tuple[str, Callable[[Scenario], Any]]] = [
    ("batch=8,32", lambda s: s.batch),
    ("max-length=100,400", lambda s: s.longest - s.prompt_tokens),
    ("alpha=0.9,0.95", lambda s: 1 - s.rejected[""].low),
    ("tp=1,2", lambda s: s.tensor_parallel),
    ("format=int8,fp8", lambda s: s.formats[0]),
]


@pytest.mark.parametrize(("text", "value"), SWEPT)
def test_a_sweep_changes_one_thing(text: str, value: Callable[[Scenario], Any]) -> None:
    first, second = points(SMALL, [text])
    assert [value(point.scenario) for point in (first, second)] == pytest.approx([first.value, second.value])
    assert first.scenario.gpus == second.scenario.gpus == SMALL.gpus
    assert second.scenario.model is SMALL.model


def test_cut_responses_are_sooner_done() -> None:
    found = [plan(point.scenario)["plain"] for point in points(SMALL, ["max-length=100,300,900"])]
    seconds = [middle(way.rollout_s) for way in found]
    assert seconds == sorted(seconds)
    assert seconds[0] < 0.5 * seconds[-1]


def test_a_cluster_of_4096_gpus_takes_seconds() -> None:
    scenario = replace(SMALL, engines=4096, prompts=8192, samples=8, stragglers=40)
    ways = plan(scenario, 2)
    assert middle(ways["int4"].rollout_s) < middle(ways["plain"].rollout_s)
    assert len(list(cluster.split(scenario.workload(CHANCE), 4096))) == 4096
