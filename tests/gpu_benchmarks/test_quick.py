"""Every GPU benchmark runs in its quick mode, and its record holds what it promises; never what it measures."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.engines import EFFICIENT, STOCK, contestants
from benchmarks.gpu.limits import acceptance_length, byte_limit

pytestmark = pytest.mark.engine


def run(name: str, folder: Path, *more: str) -> dict[str, Any]:
    """The record of a quick run in a process of its own."""
    json_file, markdown = folder / f"{name}.json", folder / f"{name}.md"
    command = [sys.executable, "-m", f"benchmarks.gpu.{name}", "--quick", "--quiet", "--json", str(json_file)]
    finished = subprocess.run(
        [*command, "--markdown", str(markdown), *more], capture_output=True, text=True, timeout=300, check=False
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    record = json.loads(json_file.read_text())
    assert record["benchmark"] == f"gpu.{name}"
    assert any("numbers mean nothing" in note for note in record["notes"])
    assert all(math.isfinite(number) for number in numbers(record["results"]))
    assert markdown.read_text().startswith("# ")
    return record


def numbers(value: Any) -> Iterator[float]:
    """All numbers in a record."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from numbers(part)
    elif isinstance(value, int | float):
        yield float(value)


def is_interval(ratio: dict[str, float]) -> bool:
    return 0 < ratio["low"] <= ratio["value"] <= ratio["high"]


def test_rollout_has_every_contestant_with_the_same_tokens(tmp_path: Path) -> None:
    results = run("rollout", tmp_path)["results"]
    assert [result["contestant"] for result in results] == list(contestants("int8", on_gpu=False))
    by_name = {result["contestant"]: result for result in results}
    tokens = {one["tokens"] for result in results for one in result["rounds"]}
    assert len(tokens) == 1
    assert all(is_interval(result["over_stock"]) for result in results)
    assert by_name[STOCK]["over_stock"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert by_name[STOCK]["speculating_share"] == 0
    for name, length in (("fixed-5", 5), ("fixed-7", 7), ("stock-draft", 5)):
        assert by_name[name]["speculating_share"] > 0.4
        assert 1 < by_name[name]["mean_draft_length"] <= length
    assert 0.9 < by_name["stock-draft"]["acceptance"] <= 1.0  # on a CPU its copy of the policy is exact
    assert 0 <= by_name[EFFICIENT]["speculating_share"] <= 1


def test_tail_computes_speedup_and_limit_from_what_it_measured(tmp_path: Path) -> None:
    record = run("tail", tmp_path)
    alpha = record["settings"]["acceptance"]
    loads = [(result["requests"], result["context"]) for result in record["results"]]
    assert loads == [(1, 32), (2, 32), (1, 64), (2, 64)]
    for result in record["results"]:
        assert result["limit"] == pytest.approx(byte_limit(alpha, result["byte_ratio"])[0])
        assert 0.5 < result["byte_ratio"] < 0.6
        for one in result["draft_lengths"]:
            tau = acceptance_length(one["draft_length"], alpha)
            assert one["acceptance_length"] == pytest.approx(tau)
            assert is_interval(one["speedup"])
            assert one["speedup"]["value"] == pytest.approx(tau * result["target_ms"] / one["cycle_ms"])
        best = max(one["speedup"]["value"] for one in result["draft_lengths"])
        assert result["share_of_limit"] == pytest.approx(best / result["limit"])


def test_overhead_names_what_stock_vllm_chose(tmp_path: Path) -> None:
    record = run("overhead", tmp_path)
    assert [result["requests"] for result in record["results"]] == [1, 2]
    assert all(is_interval(result[key]) for result in record["results"] for key in ("ratio", "control_ratio"))
    assert sum("runner V" in note for note in record["notes"]) == 3


def test_requantize_owns_what_its_format_needs(tmp_path: Path) -> None:
    (result,) = run("requantize", tmp_path)["results"]
    assert is_interval(result["over_a_read"])
    assert result["memory_ratio"] == pytest.approx(result["drafter_bytes"] / result["format_bytes"])
    assert 0.99 < result["memory_ratio"] < 1.2
    assert 3.4 < result["weight_bytes"] / result["drafter_bytes"] < 4.0  # int4


def test_probe_says_which_kernels_it_tried(tmp_path: Path) -> None:
    (result,) = run("probe", tmp_path)["results"]
    assert result["curves"]["bf16"][0]["rows"] == 1
    assert {tried["precision"] for tried in result["kernels"]} == {"bf16", "fp8"}
    assert result["bandwidth_bytes_per_s"] > 0


def test_shapes_finds_dummy_weights_degenerate_and_the_drafter_made_from_them(tmp_path: Path) -> None:
    (result,) = run("shapes", tmp_path)["results"]
    assert result["degenerate"]
    assert result["drafter_problem"] == ""
    assert result["drafter_error"] < 0.05


def test_cycle_accounts_for_its_time(tmp_path: Path) -> None:
    (result,) = run("cycle", tmp_path)["results"]
    assert result["kernels"]
    assert result["gaps"]
    total = result["kernels_us"] + result["gaps_us"]
    assert 0.5 * result["profiled_cycle_us"] < total < 1.5 * result["profiled_cycle_us"]
    assert result["kernels_us"] == pytest.approx(sum(one["microseconds"] for one in result["kernels"]))


def test_train_small_runs_every_seed_both_ways_and_goes_on_from_its_cache(tmp_path: Path) -> None:
    record = run("train_small", tmp_path, "--cache", str(tmp_path))
    runs = {(one["mode"], one["seed"]): one for one in record["results"] if "mode" in one}
    assert set(runs) == {(mode, seed) for mode in ("plain", "speculative") for seed in (0, 1)}
    for (mode, _), one in runs.items():
        assert len(one["reward"]) == len(one["rollout_seconds"]) == 2
        assert all(kept <= reached for kept, reached in zip(one["kept"], one["reached"], strict=True))
        assert (sum(one["reached"]) == 0) == (mode == "plain" or not any(one["speculating_fraction"]))
    (compared,) = (one for one in record["results"] if "reward_difference" in one)
    late = compared["reward_difference"]
    assert late["low"] <= late["value"] <= late["high"]
    assert is_interval(compared["plain_over_speculative_rollout_seconds"])
    again = run("train_small", tmp_path, "--cache", str(tmp_path))["results"]
    assert [one for one in again if "mode" in one] == list(runs.values())
