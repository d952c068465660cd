"""The benchmarks' arithmetic, and that they run; never what they measure."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import cpu_speedup, overhead
from benchmarks.cpu_speedup import Counts
from benchmarks.measure import ratio_interval
from benchmarks.model import SHAPES, save_random_model
from benchmarks.record import Record


def test_ratio_interval_is_exact_for_constant_values_and_holds_the_value_otherwise():
    assert ratio_interval([([2.0], [1.0])] * 4) == (2.0, 2.0, 2.0)
    value, low, high = ratio_interval([([1.0 + i / 10], [1.0]) for i in range(9)])
    assert low < value < high
    assert value == pytest.approx(1.4)


def test_interval_is_drawn_by_rounds():
    """A thousand steps of two rounds that disagree are two observations, not a thousand."""
    _, low, high = ratio_interval([([1.0] * 500, [1.0] * 500), ([2.0] * 500, [1.0] * 500)])
    assert (low, high) == (1.0, 2.0)


def test_shape_counts_the_weights_that_a_token_reads(tmp_path: Path):
    from safetensors.torch import load_file

    shape = SHAPES["tiny"]
    tensors = load_file(save_random_model(tmp_path, shape) / "model.safetensors")
    linear = {name: t for name, t in tensors.items() if t.dim() == 2 and "embed" not in name}
    assert shape.linear_weights == sum(t.numel() for t in linear.values())
    assert shape.output_channels == sum(t.shape[0] for t in linear.values())
    assert 0.5 < shape.byte_ratio < 0.55


def test_counts_from_cumulative_counters():
    counts = Counts()
    before = {"drafts": 10, "accepted_by_position": [5, 5, 5, 7]}
    counts.add(before, {"drafts": 20, "accepted_by_position": [13, 11, 5, 7]}, length=2)
    assert counts.by_position == [0.8, 0.75]
    assert counts.acceptance_length == pytest.approx(2.4)
    assert counts.mean == pytest.approx(14 / 18)


def test_record_writes_json_and_markdown(tmp_path: Path):
    record = Record("name", "title", {"sizes": (1, 2)}, ("B", "ratio"))
    record.rows.append(("1", "1.00"))
    record.results.append({"requests": 1})
    record.close()
    record.write(tmp_path / "r.json", tmp_path / "r.md")
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["settings"] == {"sizes": [1, 2]}
    assert written["machine"]["versions"]["torch"]
    assert "| 1 | 1.00 |" in (tmp_path / "r.md").read_text()


@pytest.mark.parametrize(
    ("main", "arguments", "names"),
    [
        (overhead.main, ["--sizes", "0"], "--sizes"),
        (overhead.main, ["--steps", "few"], "--steps"),
        (cpu_speedup.main, ["--draft-lengths", "33"], "--draft-lengths"),
        (cpu_speedup.main, ["--sharpness", "-1"], "--sharpness"),
        (cpu_speedup.main, ["--json", "no-such-folder/r.json"], "no-such-folder"),
    ],
)
def test_bad_arguments_end_with_one_line(main, arguments: list[str], names: str, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert names in error
    assert error.count("\n") == 1


@pytest.mark.engine
@pytest.mark.parametrize(
    "name", ["overhead", "cpu_speedup", "gate_live", "gate_decision", "acceptance", "requantize", "simulate_engine"]
)
def test_quick_mode_runs(name: str, tmp_path: Path):
    file = tmp_path / "record.json"
    command = [sys.executable, "-m", f"benchmarks.{name}", "--quick", "--quiet", "--json", str(file)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert json.loads(file.read_text())["results"]
    assert "numbers mean nothing" in finished.stdout
