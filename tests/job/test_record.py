"""The run's files: whole after every step, strict JSON, and clear about disk trouble."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from examples.grpo_math.record import TIMELINES_KEPT, Record, Step, check_writable, rollout_fields
from examples.grpo_math.wandb_log import metrics
from nemo_rl_efficientrollout.alarm import Alarm
from nemo_rl_efficientrollout.errors import UserError
from nemo_rl_efficientrollout.files import write_whole

FACTS = {"name": "a", "settings": {}, "model": {}, "machine": {}}


def rollout(drafts: int = 0, drafted: int = 0, accepted: int = 0, steps: int = 4, speculating: int = 0) -> Any:
    counts = {
        "drafts": drafts,
        "drafted_tokens": drafted,
        "accepted_tokens": accepted,
        "decode_steps": steps,
        "speculating_steps": speculating,
    }
    timeline = {
        "seconds": [0.1 * (index + 1) for index in range(steps)],
        "active": [2] * steps,
        "draft_length": [0] * (steps - speculating) + [2] * speculating,
        "drafted": [0] * (steps - speculating) + [drafted] * speculating,
        "accepted": [0] * (steps - speculating) + [accepted] * speculating,
        "step_seconds": [0.1] * steps,
    }
    timeline |= {"context": [9.0] * steps, "asked": [0] * steps, "decode_only": [True] * steps}
    gate = {"gate": "FixedGate"}
    metrics = {"efficientrollout/regret_estimate": 0.01, "refit/requantize_s": 0.5}
    given = SimpleNamespace(responses=[[1], [1, 2, 3]], seconds=2.0, tokens=4, counts=counts, timeline=timeline)
    return SimpleNamespace(**vars(given), gate=(gate, gate), metrics=metrics)


def step(number: int, loss: float = 0.5, **counts: int) -> Step:
    return Step(
        step=number,
        reward=0.25,
        loss=loss,
        entropy=0.1,
        grad_norm=1.0,
        reward_seconds=0.1,
        train_seconds=1.0,
        refit_seconds=0.2,
        total_seconds=3.3,
        policy_version=number,
        drafter_version=number,
        drafter_version_lag=0,
        requantize_seconds=0.01,
        **rollout_fields(rollout(**counts)),
    )


def test_rollout_fields() -> None:
    fields = rollout_fields(rollout(drafts=4, drafted=8, accepted=6, speculating=1))
    assert fields["acceptance_rate"] == 0.75
    assert fields["acceptance_length"] == 2.5
    assert fields["speculating_fraction"] == 0.25
    assert fields["draft_length_mean"] == 0.5
    assert fields["response_tokens"] == {"mean": 2, "median": 2, "max": 3}
    plain = rollout_fields(rollout())
    assert plain["acceptance_rate"] is plain["acceptance_length"] is None
    assert plain["speculating_fraction"] == 0.0
    assert rollout_fields(rollout(steps=0))["speculating_fraction"] is None


def test_files_after_each_step(tmp_path: Path) -> None:
    record = Record(tmp_path / "run", **FACTS)
    for number in range(1, TIMELINES_KEPT + 3):
        record.add(step(number, loss=float("nan")))
        report = json.loads(record.report_path.read_text())
        assert report["steps"] == number
        assert report["tokens"] == 4 * number
        assert report["loss"] == [None] * number
        assert report["policy_version"] == report["drafter_version"] == number
        assert len(report["timeline"]) == min(number, TIMELINES_KEPT)
        lines = (tmp_path / "run" / "steps.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, number + 1))
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["report.json", "steps.jsonl"]
    page = record.write_html()
    assert "<html" in page.read_text()


def test_alarms_are_kept_with_their_steps(tmp_path: Path) -> None:
    record = Record(tmp_path, **FACTS)
    record.add(step(1))
    assert json.loads(record.report_path.read_text())["alarms"] == []
    record.add(step(2), [Alarm("behind", "no drafter"), Alarm("gate_stuck", "too slow")])
    record.add(step(3))
    assert json.loads(record.report_path.read_text())["alarms"] == [
        {"step": 2, "name": "behind", "text": "no drafter"},
        {"step": 2, "name": "gate_stuck", "text": "too slow"},
    ]


def test_a_new_run_of_the_same_name_starts_empty(tmp_path: Path) -> None:
    first = Record(tmp_path, **FACTS)
    first.add(step(1))
    first.write_html()
    Record(tmp_path, **FACTS)
    assert [p.name for p in tmp_path.iterdir()] == ["steps.jsonl"]
    assert (tmp_path / "steps.jsonl").read_text() == ""


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    write_whole(path, b"old")

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, b"new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = Record(tmp_path, **FACTS)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match="No space left on device; make room"):
        record.add(step(1))


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/runs': Not a directory"):
        check_writable(tmp_path / "file" / "runs")
    check_writable(tmp_path / "runs")
    assert list((tmp_path / "runs").iterdir()) == []


def test_metrics_have_nemo_rl_names_and_no_gaps() -> None:
    speculating = metrics(step(1, drafts=4, drafted=8, accepted=6, speculating=1))
    assert speculating["train/vllm/spec_acceptance_rate"] == 0.75
    assert speculating["train/vllm/spec_acceptance_length"] == 2.5
    assert speculating["timing/train/generation"] == 2.0
    assert speculating["train/efficientrollout/drafter_version_lag"] == 0.0
    assert speculating["train/efficientrollout/regret_estimate"] == 0.01
    assert speculating["refit/requantize_s"] == 0.01  # of this step's refit, not of the one before its rollout
    plain = metrics(step(1))
    assert set(speculating) - set(plain) == {"train/vllm/spec_acceptance_rate", "train/vllm/spec_acceptance_length"}
