"""The GPU benchmarks' arithmetic, without an engine."""

import math
from statistics import mean
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.gpu import engines, lengths, probe, requantize, rollout, shapes, tail, train_small
from benchmarks.gpu.cycle import Span, gaps, kernels
from benchmarks.gpu.engines import EFFICIENT, STOCK, contestants
from benchmarks.gpu.limits import Bytes, acceptance_length, byte_limit, speedup, unconditional
from benchmarks.gpu.shapes import CONFIGS, Built, draw_weights
from benchmarks.gpu.train_report import difference
from benchmarks.gpu.turns import Player, players


@pytest.mark.parametrize(("gamma", "alpha"), [(1, 0.5), (5, 0.95), (11, 0.982)])
def test_acceptance_length_is_the_geometric_sum(gamma: int, alpha: float) -> None:
    assert acceptance_length(gamma, alpha) == pytest.approx((1 - alpha ** (gamma + 1)) / (1 - alpha))
    assert acceptance_length(gamma, 1.0) == gamma + 1
    assert 1 + sum(unconditional(gamma, alpha)) == pytest.approx(acceptance_length(gamma, alpha))


@pytest.mark.parametrize(
    ("alpha", "ratio", "limit", "gamma"),
    [
        (0.70, 0.25, 1.46, 2), (0.70, 0.45, 1.17, 1), (0.80, 0.25, 1.69, 3), (0.85, 0.40, 1.45, 3),
        (0.90, 0.25, 2.09, 6), (0.90, 0.35, 1.71, 4), (0.90, 0.60, 1.23, 2), (0.93, 0.30, 2.03, 6),
        (0.95, 0.25, 2.47, 9), (0.95, 0.35, 1.95, 7), (0.95, 0.50, 1.51, 5), (0.97, 0.30, 2.37, 11),
        (0.98, 0.25, 2.87, 11), (0.98, 0.60, 1.43, 7),
    ],
)  # fmt: skip
def test_byte_limit_is_the_published_table(alpha: float, ratio: float, limit: float, gamma: int) -> None:
    found, length = byte_limit(alpha, ratio)
    assert found == pytest.approx(limit, abs=0.006)
    # Near the optimum neighbours differ by less than the table's digits.
    assert speedup(length, alpha, ratio) - speedup(gamma, alpha, ratio) < 0.005


def test_a_verification_that_costs_more_gains_less() -> None:
    assert speedup(7, 0.95, 0.35, 1.15) == pytest.approx(acceptance_length(7, 0.95) / (7 * 0.35 + 1.15))


@pytest.mark.parametrize(
    ("shape", "target_gb", "int4", "fp8"),
    [("qwen2.5-7b", 14.1, 0.26, 0.5), ("llama-3.1-8b", 15.0, 0.26, 0.5), ("qwen2.5-14b", 28.0, 0.26, 0.5)],
)
def test_bytes_are_those_of_the_published_shapes(shape: str, target_gb: float, int4: float, fp8: float) -> None:
    assert Bytes.of(CONFIGS[shape], "int4").target / 1e9 == pytest.approx(target_gb, rel=0.01)
    assert Bytes.of(CONFIGS[shape], "int4").ratio() == pytest.approx(int4, abs=0.01)
    assert Bytes.of(CONFIGS[shape], "fp8").ratio() == pytest.approx(fp8, abs=0.01)
    assert Bytes.of(CONFIGS[shape], "bf16").ratio() == 1.0


def test_cached_tokens_wear_the_byte_ratio_down() -> None:
    size = Bytes.of(CONFIGS["qwen2.5-7b"], "int4")
    assert size.kv_per_token == 57344
    ratios = [size.ratio(requests, 8192) for requests in (0, 1, 4, 16, 64)]
    assert ratios == sorted(ratios)
    assert size.ratio(64, 32768) > 0.9


def test_lengths_have_the_published_quantiles_and_mean() -> None:
    for share, seconds in lengths.TIMES:
        assert lengths.completion_seconds(share) == pytest.approx(seconds)
    drawn = lengths.response_lengths(1024)
    assert 620 <= mean(drawn) <= 660
    assert drawn == sorted(drawn)
    assert 0.85 * lengths.MOST < max(drawn) < lengths.MOST  # nothing was fitted to it
    half, tail_length = lengths.quantile(drawn, 0.5), lengths.quantile(drawn, 0.99)
    assert 400 < half < 640
    assert tail_length > 3 * half


def test_lengths_take_as_long_as_published_when_they_are_played_back() -> None:
    """Steps whose time grows with the active requests, as the fit assumes, complete at the published times."""
    drawn = lengths.response_lengths(1024)
    growth, clock, done, completed = lengths._step_growth(), 0.0, 0, []
    for token in range(1, round(drawn[-1]) + 1):
        clock += lengths.PLAIN_STEP_S * (1 + growth * (1 - done / len(drawn)))
        while done < len(drawn) and round(drawn[done]) <= token:
            completed.append(clock)
            done += 1
    assert len(completed) == 1024
    assert completed[512] == pytest.approx(13.0, rel=0.03)
    assert completed[921] == pytest.approx(22.0, rel=0.03)
    assert completed[1013] == pytest.approx(30.0, rel=0.05)
    assert completed[-1] == pytest.approx(88.0, rel=0.05)


def test_a_rollout_is_seeded_shares_prompts_and_holds_the_longest_response() -> None:
    first, again, other = lengths.rollout(0), lengths.rollout(0), lengths.rollout(1)
    assert first == again != other
    assert len(first) == 128
    prompts = {request.prompt: request.prompt_tokens for request in first}
    assert len(prompts) == 16
    assert all(request.prompt_tokens == prompts[request.prompt] for request in first)
    assert 64 <= min(prompts.values()) <= max(prompts.values()) <= 1024
    longest = max(request.response_tokens for request in first)
    assert longest == round(max(lengths.response_lengths(1024)))
    assert max(request.response_tokens for request in lengths.rollout(0, shrink=100.0)) == round(longest / 100)


def test_contestants_differ_in_nothing_but_speculation(tmp_path) -> None:
    built = Built("qwen2.5-7b", tmp_path, CONFIGS["qwen2.5-7b"], dummy=True)
    known = contestants("int4", on_gpu=True)
    assert known[STOCK].arguments(built, 0.9) == {}
    for name, one in known.items():
        if name == STOCK:
            continue
        speculation = one.arguments(built, 0.9)["speculative_config"]
        rates = speculation["synthetic_acceptance_rates"]
        assert len(rates) == speculation["num_speculative_tokens"]
        assert rates[1] == pytest.approx(0.81)
        assert one.arguments(built, None)["speculative_config"].get("rejection_sample_method") != "synthetic"
    assert known["stock-draft"].arguments(built, None)["speculative_config"]["quantization"] == "fp8"


@pytest.mark.parametrize("name", [STOCK, EFFICIENT])
def test_on_a_gpu_engines_are_compiled_and_made_up_weights_are_drawn_anew(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    asked: dict[str, Any] = {}
    drawn, remade = [], []

    class Engine:
        def collective_rpc(self, method: str) -> None:
            remade.append(method)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(engines, "new_engine", lambda *model, **more: asked.update(more) or Engine())
    monkeypatch.setattr(engines, "policy_of", lambda llm: "policy")
    monkeypatch.setattr(engines, "draw_weights", drawn.append)
    built = Built("qwen2.5-7b", tmp_path, CONFIGS["qwen2.5-7b"], dummy=True)
    contestant = contestants("int4", on_gpu=True)[name]
    engines.open_engine(built, contestant, requests=8, max_model_len=64, kv_gib=0.5)
    assert asked["compiled"]
    assert asked["load_format"] == "dummy"
    assert asked["kv_cache_memory_bytes"] == 1 << 29
    assert asked["gpu_memory_utilization"] < 0.1  # others live on the GPU as well
    assert drawn == ["policy"]
    assert remade == (["efficientrollout_requantize"] if contestant.ours else [])
    assert ("speculative_config" in asked) == contestant.ours


def test_a_draft_model_with_its_own_dummy_weights_plays_only_where_acceptance_is_imposed(tmp_path) -> None:
    known = contestants("int4", on_gpu=True)
    made_up = Built("qwen2.5-7b", tmp_path, CONFIGS["qwen2.5-7b"], dummy=True)
    real = Built("model", tmp_path, CONFIGS["qwen2.5-7b"], dummy=False)
    assert set(known) - set(rollout.comparable(known, made_up, None)) == {"stock-draft", "stock-table"}
    assert rollout.comparable(known, made_up, 0.9) == rollout.comparable(known, real, None) == known


class Norms(nn.Module):
    """A model in names only."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(64, bias=False)
        self.qkv_proj = nn.Linear(64, 96)
        self.lm_head = nn.Linear(64, 1000, bias=False)


def test_drawn_weights_are_as_wide_as_trained_ones_and_equal_by_seed() -> None:
    one, two = Norms(), Norms()
    for model in (one, two):
        draw_weights(model)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert torch.equal(one.input_layernorm.weight, torch.ones(64))
    assert float(one.qkv_proj.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    logits = one.lm_head(torch.randn(100, 64)).detach()
    assert float(logits.std()) == pytest.approx(shapes.LOGIT_STD, rel=0.1)


def test_kernels_add_up_and_gaps_are_between_them() -> None:
    spans = [Span("a", 0.0, 4.0), Span("b", 3.0, 6.0), Span("a", 10.0, 12.0), Span("c", 12.0, 13.0)]
    assert [(cost.name, cost.microseconds, cost.count) for cost in kernels(spans, 2)] == [
        ("a", 3.0, 1.0),
        ("b", 1.5, 0.5),
        ("c", 0.5, 0.5),
    ]
    (gap,) = gaps(spans, 2)  # what overlaps or touches leaves none
    assert (gap.name, gap.microseconds) == ("b → a", 2.0)


def test_difference_of_pairs_is_students() -> None:
    assert difference([(0.1, 0.2)]) is None
    found = difference([(0.0, 1.0), (0.0, 2.0), (0.0, 3.0)])
    assert found is not None
    assert found["value"] == 2.0
    assert found["high"] - found["value"] == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)


class Adder:
    """What takes turns here."""

    def __init__(self, start: int) -> None:
        self.total = start

    def add(self, number: int) -> int:
        self.total += number
        return self.total

    def fail(self) -> None:
        raise ValueError("on purpose")


@pytest.mark.parametrize("own_process", [False, True])
def test_players_keep_their_state_and_end(own_process: bool) -> None:
    wanted = {"one": Player(Adder, (1,)), "ten": Player(Adder, (10,))}
    with players(wanted, own_process) as calls:
        assert [calls[name]("add", 1) for name in ("one", "ten", "one")] == [2, 11, 3]
    if own_process:
        import multiprocessing

        assert not multiprocessing.active_children()


def test_a_players_error_is_told_with_its_name() -> None:
    with pytest.raises(RuntimeError, match="on purpose"), players({"one": Player(Adder, (1,))}, True) as calls:
        calls["one"]("fail")
    with pytest.raises(RuntimeError, match="missing"), players({"one": Player(Adder, ())}, True):
        pass


@pytest.mark.parametrize(
    ("main", "arguments", "names"),
    [
        (rollout.main, ["--quick", "--acceptance", "0.9"], "--acceptance"),
        (rollout.main, ["--quick", "--acceptance", "much"], "--acceptance"),
        (rollout.main, ["--quick", "--contestants", "nobody"], "--contestants"),
        (rollout.main, ["--quick", "--model", "no-such-folder"], "no-such-folder"),
        (tail.main, ["--quick", "--draft-lengths", "33"], "--draft-lengths"),
        (tail.main, ["--quick", "--sizes", "0"], "--sizes"),
        (probe.main, ["--seconds", "0"], "--seconds"),
        (probe.main, ["--quick", "--device", "abacus"], "abacus"),
        (requantize.main, ["--json", "no-such-folder/r.json"], "no-such-folder"),
        (train_small.main, ["--learning-rate", "2"], "--learning-rate"),
    ],
)
def test_bad_arguments_end_with_one_line(main, arguments: list[str], names: str, capsys) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert names in error
    assert error.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("main", [rollout.main, tail.main, requantize.main, train_small.main])
def test_large_models_are_refused_without_a_gpu(main, capsys) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([])
    assert exit_.value.code == 2
    assert "--quick" in capsys.readouterr().err
