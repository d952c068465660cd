"""The memory-bound detector: its arithmetic on made-up machines, its structure on this one."""

import json
import math
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nemo_rl_efficientrollout.errors import UserError
from nemo_rl_efficientrollout.gate.detector import Gemm, GemmKernel, LayerShape, detect, fit_ridge, layer_shapes
from nemo_rl_efficientrollout.gate.detector import cache as cache_module
from nemo_rl_efficientrollout.gate.detector.choice import choose, explain
from nemo_rl_efficientrollout.gate.detector.curve import MOST_COPIES, copies, gemm_curve, row_counts
from nemo_rl_efficientrollout.gate.detector.device import find_device, guest_on
from nemo_rl_efficientrollout.gate.detector.kernel import random_matrix
from nemo_rl_efficientrollout.gate.detector.timing import SAMPLES, Budget, seconds_per_call

CPU = torch.device("cpu")
TINY = [LayerShape("a", 48, 32, 3), LayerShape("b", 32, 64, 1)]
QWEN = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
}
"""Qwen2.5-7B."""


class FakeKernel:
    """Counts what is asked of it."""

    def __init__(self, name: str, precision: str, why_not: str | None = None) -> None:
        self.name, self.precision, self.why_not = name, precision, why_not
        self.prepared: list[tuple[int, int]] = []
        self.calls: dict[int, int] = {}

    def available(self, device: torch.device) -> str | None:
        return self.why_not

    def prepare(self, out_features: int, in_features: int, device: torch.device) -> Gemm:
        self.prepared.append((out_features, in_features))

        def gemm(rows: int) -> Callable[[], object]:
            def run() -> None:
                self.calls[rows] = self.calls.get(rows, 0) + 1

            return run

        return gemm


# Rows


@pytest.mark.parametrize(
    ("max_rows", "rows"),
    [
        (1, [1]),
        (2, [1, 2]),
        (13, [1, 2, 3, 4, 6, 8, 12, 13]),
        (64, [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]),
    ],
)
def test_rows_are_powers_of_two_and_points_between(max_rows: int, rows: list[int]) -> None:
    assert row_counts(max_rows) == rows


# Ridge


@given(
    flat=st.floats(1e-6, 1.0),
    ridge=st.floats(1.0, 200.0),
    noise=st.lists(st.floats(-0.03, 0.03), min_size=21, max_size=21),
)
def test_ridge_of_a_roofline_survives_noise(flat: float, ridge: float, noise: list[float]) -> None:
    rows = row_counts(1024)
    curve = [(m, flat * max(1.0, m / ridge) * math.exp(noise[i])) for i, m in enumerate(rows)]
    fit = fit_ridge(curve)
    assert fit.rows == pytest.approx(ridge, rel=0.1)
    assert fit.flat_s == pytest.approx(flat, rel=0.1)


@pytest.mark.parametrize("ridge", [4, 10, 40])
def test_ridge_where_memory_and_arithmetic_do_not_overlap(ridge: int) -> None:
    curve = [(rows, 1e-3 * (1 + rows / ridge)) for rows in row_counts(16 * ridge)]
    assert fit_ridge(curve).rows == pytest.approx(ridge, rel=0.3)


@given(noise=st.lists(st.floats(-0.05, 0.05), min_size=13, max_size=13))
def test_a_flat_curve_has_no_ridge(noise: list[float]) -> None:
    fit = fit_ridge([(rows, 2.0 * math.exp(noise[i])) for i, rows in enumerate(row_counts(64))])
    assert fit.rows is None
    assert fit.flat_s == pytest.approx(2.0, rel=0.06)


def test_a_line_through_the_origin_has_its_ridge_at_one_row() -> None:
    assert fit_ridge([(rows, 0.5 * rows) for rows in row_counts(64)]).rows == pytest.approx(1.0)


def test_one_point_is_flat() -> None:
    assert fit_ridge([(1, 3.0)]) == (pytest.approx(3.0), None)


# Shapes


def test_shapes_of_a_known_model() -> None:
    assert [(s.name, s.out_features, s.in_features, s.count) for s in layer_shapes(QWEN)] == [
        ("qkv", 4608, 3584, 28),
        ("o", 3584, 3584, 28),
        ("gate_up", 37888, 3584, 28),
        ("down", 3584, 18944, 28),
        ("lm_head", 152064, 3584, 1),
    ]


def test_shapes_follow_head_dim_and_default_key_value_heads() -> None:
    config = {**QWEN, "num_key_value_heads": None, "head_dim": 64}
    qkv, o = layer_shapes(config)[:2]
    assert (qkv.out_features, o.in_features) == (3 * 28 * 64, 28 * 64)


@pytest.mark.parametrize(("gpus", "kv_heads"), [(2, 2), (4, 1), (7, 1)])
def test_tensor_parallel_divides_and_repeats_key_value_heads(gpus: int, kv_heads: int) -> None:
    config = {**QWEN, "intermediate_size": 28 * 100, "vocab_size": 28 * 10 + 1}
    qkv, o, gate_up, down, head = layer_shapes(config, gpus)
    assert qkv.out_features == (28 // gpus + 2 * kv_heads) * 128
    assert (o.in_features, o.out_features) == (3584 // gpus, 3584)
    assert (gate_up.out_features, down.in_features) == (2 * 2800 // gpus, 2800 // gpus)
    assert head.out_features == 280 // gpus + 1


@pytest.mark.parametrize("key", [key for key in QWEN if key != "num_key_value_heads"])
def test_a_missing_key_is_named(key: str) -> None:
    config = {other: value for other, value in QWEN.items() if other != key}
    with pytest.raises(UserError, match=f"no {key}"):
        layer_shapes(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": "3584"}, "hidden_size is '3584'"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"num_local_experts": 8}, "num_local_experts"),
    ],
)
def test_nonsense_in_a_config_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        layer_shapes({**QWEN, **change})


@pytest.mark.parametrize(("gpus", "message"), [(0, "tensor_parallel is 0"), (3, "num_attention_heads 28")])
def test_tensor_parallel_must_divide(gpus: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        layer_shapes(QWEN, gpus)


def test_a_layer_without_weights_is_refused() -> None:
    with pytest.raises(UserError, match="in_features is 0"):
        LayerShape("x", 4, 0, 1)


# Choice of kernels


def test_first_available_kernel_of_each_precision_is_chosen() -> None:
    best = FakeKernel("best", "fp8", "not installed")
    second, third, plain = FakeKernel("second", "fp8"), FakeKernel("third", "fp8"), FakeKernel("plain", "bf16")
    chosen, tried = choose([best, second, third, plain], CPU)
    assert chosen == [second, plain]
    assert [one.why_not for one in tried] == ["not installed", None, "second is preferred", None]
    assert explain(tried) == "second: not installed"


def test_equal_reasons_are_said_once() -> None:
    kernels = [FakeKernel("a", "fp8", "no GPU"), FakeKernel("b", "fp8", "no GPU"), FakeKernel("c", "bf16")]
    assert explain(choose(kernels, CPU)[1]) == "c: no GPU"
    assert explain(choose(kernels[2:], CPU)[1]) == "c: first choice"


# Timing


def test_budget_is_shared_by_what_is_left() -> None:
    now = [0.0]
    budget = Budget(6.0, 3, clock=lambda: now[0])
    assert budget.share() == pytest.approx(2.0)
    now[0] = 4.0
    assert budget.share() == pytest.approx(1.0)
    now[0] = 7.0
    assert budget.share() == 0.0
    assert budget.share() == 0.0


def test_every_run_is_called_in_turn_and_once_without_budget() -> None:
    order: list[int] = []
    runs = [lambda i=i: order.append(i) for i in range(3)]
    assert seconds_per_call(runs, CPU, 0.0) > 0
    assert order == [0, 1, 2]


def test_repeats_are_bounded() -> None:
    ticks = count()
    seconds_per_call([lambda: next(ticks)], CPU, 60.0)
    assert next(ticks) == SAMPLES + 1


def test_warm_up_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    costs = iter([100.0, 2.0])

    def run() -> None:
        now[0] += next(costs)

    monkeypatch.setattr("nemo_rl_efficientrollout.gate.detector.timing.time.perf_counter", lambda: now[0])
    assert seconds_per_call([run], CPU, 101.0) == pytest.approx(2.0)


class FakeEvent:
    """Of a GPU that has reached the first calls before they were all queued, but for the last ones."""

    late = 2

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        FakeEvent.late -= 1
        return FakeEvent.late >= 0

    def elapsed_time(self, end: "FakeEvent") -> float:
        return 4.0


def test_gpu_waits_until_all_calls_are_queued(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[int] = []
    monkeypatch.setattr(FakeEvent, "late", 2)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "_sleep", waits.append)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    calls = count()
    runs = [lambda: next(calls)] * 2
    assert seconds_per_call(runs, torch.device("cuda", 0), 60.0) == pytest.approx(2e-3)
    assert [wait // waits[0] for wait in waits] == [1, 2] + [4] * (SAMPLES - 1)
    assert next(calls) == 2 * (SAMPLES + 2)  # once more to warm up


def test_weights_outgrow_the_cache_but_not_the_model() -> None:
    small, large = LayerShape("small", 1 << 10, 1 << 10, 24), LayerShape("large", 1 << 15, 1 << 12, 1)
    layers = [small, large]
    assert copies(small, layers, cache_bytes=8 << 20) == 16
    assert copies(large, layers, cache_bytes=8 << 20) == 1
    assert copies(small, [small], cache_bytes=1 << 30) == 24
    assert copies(small, layers, cache_bytes=1 << 30) == MOST_COPIES


def test_curve_sums_layers_as_often_as_they_occur(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([1.0, 2.0, 10.0, 20.0])
    monkeypatch.setattr(
        "nemo_rl_efficientrollout.gate.detector.curve.seconds_per_call", lambda runs, device, budget_s: next(seconds)
    )
    kernel = FakeKernel("fake", "bf16")
    assert gemm_curve(kernel, TINY, [1, 2], CPU, 1 << 10, Budget(1.0, 4)) == ((1, 13.0), (2, 26.0))
    assert set(kernel.prepared) == {(48, 32), (32, 64)}


def test_caches_of_the_highest_level_are_summed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cache_module.os, "sched_getaffinity", lambda process: {0, 1, 2})
    for cpu, shared in ((0, "0-1"), (1, "0-1"), (2, "2")):
        for index, (level, size, who) in enumerate([("1", "48K", str(cpu)), ("3", "32M", shared)]):
            folder = tmp_path / f"cpu{cpu}/cache/index{index}"
            folder.mkdir(parents=True)
            for name, value in {"level": level, "size": size, "shared_cpu_list": who}.items():
                (folder / name).write_text(value + "\n")
    assert cache_module._cpu_bytes(tmp_path) == 64 << 20
    assert cache_module._cpu_bytes(tmp_path / "absent") == 0


@given(rows=st.integers(1, 200), columns=st.integers(1, 8))
def test_matrices_are_random_and_of_their_shape(rows: int, columns: int) -> None:
    matrix = random_matrix(rows, columns, CPU)
    assert matrix.shape == (rows, columns)
    assert matrix.is_contiguous()
    assert (matrix != 0).any()


# The whole probe


def test_probe_of_this_cpu() -> None:
    state = torch.random.get_rng_state()
    found = detect(TINY, 8, "cpu", budget_s=0.5)
    assert torch.equal(state, torch.random.get_rng_state())
    assert found.device == "cpu"
    assert found.choice == "bf16 matmul: no GPU"
    assert 1e8 < found.bandwidth_bytes_per_s < 1e13
    assert list(found.curves) == ["bf16"]
    assert [rows for rows, _ in found.curves["bf16"]] == [1, 2, 3, 4, 6, 8]
    assert all(0 < seconds < 1 for _, seconds in found.curves["bf16"])
    ridge = found.ridge_rows["bf16"]
    assert ridge is None or ridge > 0
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["bandwidth_bytes_per_s"] == found.bandwidth_bytes_per_s
    assert plain["curves"]["bf16"][-1] == {"rows": 8, "seconds": found.curves["bf16"][-1][1]}
    assert [kernel["why_not"] for kernel in plain["kernels"]] == ["no GPU", "no GPU", None]


def test_a_spent_budget_cuts_repeats_not_points() -> None:
    kernel = FakeKernel("fake", "bf16")
    found = detect(TINY, 4, "cpu", budget_s=1e-9, kernels=[kernel])
    assert [rows for rows, _ in found.curves["bf16"]] == [1, 2, 3, 4]
    assert kernel.calls == dict.fromkeys([1, 2, 3, 4], len(kernel.prepared))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": []}, "no layers"),
        ({"max_rows": 0}, "max_rows is 0"),
        ({"max_rows": 2.5}, "max_rows is 2.5"),
        ({"budget_s": 0.0}, "budget_s is 0.0"),
        ({"budget_s": math.nan}, "budget_s is nan"),
        ({"device": "abacus"}, "device 'abacus' does not exist"),
        ({"device": "meta"}, "device 'meta' is not supported"),
        ({"kernels": [FakeKernel("only", "fp8", "no GPU")]}, "no GEMM kernel for cpu: none: no GPU"),
    ],
)
def test_nonsense_is_refused_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        detect(**{"layers": TINY, "max_rows": 4, "device": "cpu", **arguments})
    assert "\n" not in str(raised.value)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert find_device(None) == torch.device("cuda", 1)
    assert find_device("cuda:0") == torch.device("cuda", 0)
    with pytest.raises(UserError, match="torch sees 2 GPUs"):
        find_device("cuda:2")


def test_an_error_changes_neither_random_numbers_nor_gradients() -> None:
    def fail() -> None:
        with guest_on(CPU):
            assert not torch.is_grad_enabled()
            torch.randn(3)
            raise RuntimeError("kernel failed")

    state = torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="kernel failed"):
        fail()
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.is_grad_enabled()


def test_too_little_gpu_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=50 << 20))
    kernel: GemmKernel = FakeKernel("fake", "bf16")
    with pytest.raises(UserError, match=r"cuda:0 has 1\.0 GiB free, and the probe needs 4\.\d GiB"):
        detect(layer_shapes(QWEN), 4, "cuda", kernels=[kernel])
