"""The whole job on the real engine, as a user starts it: a run, an interrupt, and bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nemo_rl_efficientrollout.report.html import figures

pytestmark = pytest.mark.engine
ROOT = Path(__file__).parents[2]
JOB = [sys.executable, "-m", "examples.grpo_math", "--warm-start-steps", "20", "--max-new-tokens", "48"]
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def wandb_rows(run_dir: Path) -> list[dict]:
    """The logged steps, read back with W&B's own reader."""
    (folder,) = run_dir.glob("wandb/offline-run-*")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    records = map(json.loads, out.splitlines())
    return [record["history"]["item"] for record in records if record["type"] == "history"]


def test_a_run_leaves_a_complete_report(runs: Path) -> None:
    arguments = "--name run --steps 3 --prompts-per-step 2 --group 4 --compare --json"
    settings = "--set gate.mode=fixed --set gate.draft_length=2"
    command = [*JOB, "--runs-dir", str(runs), *arguments.split(), *settings.split()]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stderr[-3000:]

    report = json.loads((runs / "run" / "report.json").read_text())
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["step"] * 3 + ["report:"]
    summary = json.loads(done.stdout)
    assert summary == {key: value for key, value in report.items() if key not in ("timeline", "response_tokens")}
    per_step = [
        "reward", "loss", "rollout_seconds", "train_seconds", "refit_seconds", "response_tokens", "acceptance_rate",
        "acceptance_length", "speculating_fraction", "requantize_seconds", "timeline",
    ]  # fmt: skip
    assert {key: len(report[key]) for key in per_step} == dict.fromkeys(per_step, 3)
    assert report["steps"] == 3
    assert report["policy_version"] == report["drafter_version"] == 3
    assert report["drafter_version_lag"] == [0, 0, 0]
    assert report["alarms"] == []
    assert report["tokens"] == sum(8 * lengths["mean"] for lengths in report["response_tokens"])
    assert report["settings"]["efficientrollout"]["gate"]["draft_length"] == 2
    assert report["model"]["type"] == "qwen3"
    assert all(0 < rate <= 1 for rate in report["acceptance_rate"])
    assert all(1 < length <= 3 for length in report["acceptance_length"])
    assert all(0 < share < 1 for share in report["speculating_fraction"])  # a prefill step drafts nothing
    for seconds, parts in zip(report["rollout_seconds"], report["seconds_spent"], strict=True):
        assert sum(parts.values()) == pytest.approx(seconds)
        assert parts["undivided"] > 0  # a fixed gate has no cost model
    for timeline in report["timeline"]:
        names = {"seconds", "active", "draft_length", "asked", "drafted", "accepted", "decode_only", "step_seconds"}
        assert names <= timeline.keys()
        assert len({len(timeline[name]) for name in names}) == 1
        assert max(timeline["active"]) == 8
        assert set(timeline["draft_length"]) <= {0, 1, 2}
    ratio = report["rollout_ratio"]
    assert ratio["pairs"] == 4
    assert 0 < ratio["min"] <= ratio["median"] <= ratio["max"]
    assert "<html" in (runs / "run" / "report.html").read_text()

    rows = wandb_rows(runs / "run")
    assert len(rows) == 3
    assert float(rows[-1]["train/vllm/spec_acceptance_rate"]) == pytest.approx(report["acceptance_rate"][-1])
    assert [float(row["train/efficientrollout/alarms"]) for row in rows] == [0.0] * 3
    assert float(rows[-1]["timing/train/generation"]) == pytest.approx(report["rollout_seconds"][-1])
    drawn = figures(report)
    assert {"timeline", "spent", "reward", "ratio"} <= drawn.keys()
    assert {key for key in rows[-1] if key.endswith("._type")} == {f"report/{name}._type" for name in drawn}


def test_an_interrupt_keeps_the_finished_steps(runs: Path) -> None:
    command = [*JOB, "--runs-dir", str(runs), "--name", "stopped", "--steps", "500", "--prompts-per-step", "2"]
    job = subprocess.Popen(
        command,
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C reaches every process of the job and none of ours
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    )
    lines = runs / "stopped" / "steps.jsonl"
    try:
        deadline = time.monotonic() + 120
        while not (lines.exists() and lines.read_text().count("\n") >= 2):
            assert job.poll() is None, job.communicate()[1][-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.2)
        os.killpg(job.pid, signal.SIGINT)
        out, err = job.communicate(timeout=60)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.communicate()
    assert job.returncode == 130, err[-3000:]
    assert out == ""
    assert "Traceback" not in err
    report = json.loads((runs / "stopped" / "report.json").read_text())
    finished = lines.read_text().count("\n")
    assert 2 <= finished < 500
    assert report["steps"] == len(report["reward"]) == finished
    assert "<html" in (runs / "stopped" / "report.html").read_text()
    assert not list((runs / "stopped").glob(".report*"))


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"problem": "1+1?", "answer": "2"}\n{"problem": "1+2?"}\n')
    command = [*JOB, "--problems", str(problems), "--runs-dir", str(tmp_path / "runs")]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert f"{problems} line 2: key 'answer' is missing" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
