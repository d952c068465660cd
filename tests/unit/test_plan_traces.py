"""Response lengths for the planner: presets apart, from files of any size and from runs."""

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nemo_rl_efficientrollout.errors import UserError
from nemo_rl_efficientrollout.plan.lengths import LONGEST, Lengths, log_normal
from nemo_rl_efficientrollout.plan.traces import read_lengths
from tests.proof import Proof
from tests.runs import write_tensorboard

MANY, ALL = 1_000_000, 10_000_000
"""Rows of a large file: always, and in the full tier."""


def read(source: object, key: str | None = None, responses: int = 1024) -> Lengths:
    return read_lengths(str(source), key, responses, lambda name, share: None)


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


FORMS = {
    "a.jsonl": ["3", "5", "3", "900"],
    "b.jsonl": ['{"id": 1, "response_length": 3}', '{"response_length": 5.0}', "", '{"response_length": [3, 900]}'],
    "c.jsonl": [
        {"input_lengths": 9, "token_loss_mask": [0, 1, 1, 1, 0]},
        {"token_loss_mask": [1] * 5},
        {"token_loss_mask": [1.0, 1.0, 1.0, 0.0]},
        {"token_loss_mask": [1] * 900},
    ],
    "d.csv": ["3,tokens", "tokens, reward", "3,1.0", "5,0", "", "3,0", "900.0,1"][1:],
    "e.csv": ["whatever", "3", "5", "3", "900"],
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_histogram(name: str, tmp_path: Path) -> None:
    found = read(write(tmp_path / name, *FORMS[name]))
    assert dict(zip(found.tokens.tolist(), found.counts.tolist(), strict=True)) == {3: 2, 5: 1, 900: 1}
    assert (found.responses, found.longest, found.mean) == (4, 900, 911 / 4)
    assert "4 responses" in found.origin


def test_a_key_of_ones_own_is_looked_for(tmp_path: Path) -> None:
    file = write(tmp_path / "x.jsonl", {"length": 1, "mine": 7}, {"length": 2, "mine": 8})
    assert read(file, "mine").tokens.tolist() == [7, 8]
    assert read(write(tmp_path / "x.csv", "length,mine", "1,7"), "mine").tokens.tolist() == [7]


def test_the_steps_of_a_nemo_rl_run_are_read_together(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        write(tmp_path / f"train_data_step{step}.jsonl", {"token_loss_mask": [1] * step}, {"token_loss_mask": [1]})
    assert read(tmp_path).tokens.tolist() == [1, 2, 10]
    assert read(tmp_path).responses == 6


BAD = {
    "empty.jsonl": ([], "holds no response"),
    "blank.csv": ([""], "has no column of lengths"),
    "header.csv": (["tokens"], "holds no response"),
    "zero.jsonl": (["5", "0"], r"zero.jsonl:2: a response of 0 tokens"),
    "negative.jsonl": (["5", "5", "-1"], r"negative.jsonl:3: a response of -1"),
    "half.jsonl": (["5.5"], r"half.jsonl:1: a response of 5.5"),
    "nan.jsonl": (["NaN"], r"nan.jsonl:1: a response of nan"),
    "true.jsonl": (["true"], r"true.jsonl:1: a response of True"),
    "characters.jsonl": ([str(LONGEST + 1)], "expected a whole number from 1 to"),
    "broken.jsonl": (['{"length": 5}', '{"length": '], r"broken.jsonl:2 is not valid JSON"),
    "text.jsonl": (["5", '"five"'], r"text.jsonl:2: a response of 'five'"),
    "other.jsonl": (['{"reward": 1}'], r"other.jsonl:1 has no length; its keys: reward; name one with --length-key"),
    "missing.jsonl": (['{"length": 5}', '{"lenght": 5}'], r"missing.jsonl:2 has no 'length' \(did you mean 'lenght'"),
    "short.csv": (["a,tokens", "1,5", "2"], r"short.csv:3: a response of ''"),
    "word.csv": (["tokens", "5", "many"], r"word.csv:3: a response of 'many'"),
    "columns.csv": (["a,b", "1,2"], r"columns.csv:1 has no column of lengths; its columns: a, b"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_row_that_is_none_is_named(name: str, tmp_path: Path) -> None:
    rows, says = BAD[name]
    with pytest.raises(UserError, match=says) as raised:
        read(write(tmp_path / name, *rows))
    assert "\n" not in str(raised.value)


def test_a_file_without_line_ends_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nemo_rl_efficientrollout.plan.traces.LONGEST_ROW", 1000)
    with pytest.raises(UserError, match=r"long.jsonl:2 is longer"):
        read(write(tmp_path / "long.jsonl", "1", "1" * 2000))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("math-qwen2.5-8b", "did you mean 'math-qwen2.5-7b'"),
        ("no/such.jsonl", "no such file or preset"),
        ("2000:1000", "expected a mean from 1 to the longest"),
        ("0:10", "expected a mean from 1"),
    ],
)
def test_what_is_not_there_is_named(source: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read(source)


def rows(count: int) -> Iterator[str]:
    chance = np.random.default_rng(0)
    for first in range(0, count, 50_000):
        lengths = np.clip(chance.lognormal(6, 1, min(50_000, count - first)).astype(int), 1, 16384)
        yield "".join(f"{length}\n" for length in lengths.tolist())


def test_a_large_file_is_streamed(tmp_path: Path, proof: Proof) -> None:
    count, file = ALL if proof.full else MANY, tmp_path / "large.jsonl"
    with file.open("w") as out:
        out.writelines(rows(count))
    told: list[float] = []
    tracemalloc.start()
    found = read_lengths(str(file), None, 1024, lambda name, share: told.append(share))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = file.stat().st_size / 2**20
    proof.row("length traces", rows=count, file_mib=round(size, 1), peak_mib=round(peak / 2**20, 1))
    assert found.responses == count
    assert told == sorted(told)
    assert told[-1] > 0.9
    assert peak < 32 * 2**20
    expected = np.clip(np.random.default_rng(0).lognormal(6, 1, min(50_000, count)).astype(int), 1, 16384)
    assert found.mean == pytest.approx(expected.mean(), rel=0.02)


def test_a_run_gives_its_mean_and_its_longest(tmp_path: Path) -> None:
    logged = {"train/mean_gen_tokens_per_sample": 500.0, "train/max_gen_tokens_per_sample": 4000.0}
    steps = [(step, {name: value * (1 + step) for name, value in logged.items()}) for step in range(3)]
    write_tensorboard(tmp_path / "tensorboard", steps, {})
    job = tmp_path / "job"
    job.mkdir()
    write(job / "steps.jsonl", *({"step": i, "response_tokens": {"mean": 1000.0, "max": 8000}} for i in range(3)))
    for found in (read(tmp_path / "tensorboard"), read(job), read(job / "steps.jsonl")):
        assert "log-normal with mean 1000 and longest 8000 of 1024 responses, the medians over 3 steps" in found.origin
        assert found.mean == pytest.approx(1000, rel=0.02)
        assert found.longest == pytest.approx(8000, rel=0.2)


def test_a_run_that_logs_no_lengths_says_which(tmp_path: Path) -> None:
    write(tmp_path / "steps.jsonl", {"step": 1, "reward": 0.5})
    with pytest.raises(UserError, match="logs no train/mean_gen_tokens_per_sample"):
        read(tmp_path)


@pytest.mark.parametrize(("mean", "longest", "responses"), [(500, 4000, 1024), (2000, 16384, 512), (50, 60, 8)])
def test_a_log_normal_has_the_mean_and_longest_that_were_asked_for(mean: int, longest: int, responses: int) -> None:
    found = log_normal("x", "", mean, longest, responses)
    chance = np.random.default_rng(1)
    assert found.mean == pytest.approx(mean, rel=0.03)
    most = [found.quantile(chance.uniform(size=responses)).max() for _ in range(400)]
    assert np.median(most) == pytest.approx(longest, rel=0.06)


def test_quantiles_are_of_the_histogram() -> None:
    found = Lengths.of("x", "", {1: 5, 10: 4, 100: 1})
    assert found.quantile(np.array([0.01, 0.5, 0.51, 0.9, 0.91, 1.0])).tolist() == [1, 1, 10, 10, 100, 100]
    assert found.spread(10).tolist() == [1] * 5 + [10] * 4 + [100]
    cut = found.cut(7)
    assert (cut.tokens.tolist(), cut.counts.tolist()) == ([1, 7], [5, 5])
    assert "cut at 7" in cut.origin
    assert found.cut(100) is found
