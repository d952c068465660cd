"""Checks before the heavy imports: what the user gave is refused at once and nothing is written."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from examples.grpo_math.inputs import checked_problems
from examples.grpo_math.streams import library_output_in
from nemo_rl_efficientrollout.errors import UserError

from .test_options import GOOD


def test_too_few_problems(tmp_path: Path) -> None:
    path = tmp_path / "two.jsonl"
    path.write_text('{"problem": "1+1?", "answer": "2"}\n' * 2)
    options = replace(GOOD, problems=path, prompts_per_step=3, runs_dir=tmp_path / "runs")
    with pytest.raises(UserError, match=r"two.jsonl' has 2 problems.*lower --prompts-per-step from 3"):
        checked_problems(options)
    assert not (tmp_path / "runs").exists()
    assert len(checked_problems(replace(options, prompts_per_step=2))) == 2


def test_bad_model_directory_writes_nothing(tmp_path: Path) -> None:
    options = replace(GOOD, model=tmp_path / "nowhere", runs_dir=tmp_path / "runs")
    with pytest.raises(UserError, match="nowhere' does not exist"):
        checked_problems(options)
    assert not (tmp_path / "runs").exists()


def test_built_in_problems_fill_every_step(tmp_path: Path) -> None:
    options = replace(GOOD, steps=3, prompts_per_step=4, runs_dir=tmp_path)
    assert len(checked_problems(options)) == 12


def test_library_output_goes_to_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "job.log"
    with library_output_in(log) as terminal:
        os.write(1, b"from C++\n")
        print("ours", file=terminal.out)
        print("progress", file=terminal.err)
    os.write(1, b"after\n")
    assert log.read_text() == "from C++\n"
    captured = capfd.readouterr()
    assert captured.out == "ours\nafter\n"
    assert captured.err == "progress\n"


def test_an_error_names_the_log_and_gives_the_terminal_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="broken") as caught, library_output_in(tmp_path / "job.log"):
        raise ValueError("broken")
    assert caught.value.__notes__ == [f"What the libraries printed is in {tmp_path / 'job.log'}"]
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"
