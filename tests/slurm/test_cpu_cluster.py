"""The multi-node script on two real Slurm nodes: a Ray cluster on CPUs, and the local job on the second node."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from .cluster import SILENCE, Cluster, text_of, wait_until

ROOT = Path(__file__).parents[2]
SCRIPT = "examples/grpo_math/slurm/cpu_cluster.sbatch"
TINY = ("--prompts-per-step", "2", "--group", "2", "--max-new-tokens", "16", "--warm-start-steps", "5")
RAY_ENVIRONMENT = Path(os.environ.get("RAY_ENVIRONMENT", ROOT / ".venv-cluster"))


def submit(cluster: Cluster, tmp_path: Path, *arguments: str) -> str:
    """Number of the submitted job; it writes to tmp_path/job.out and its run to tmp_path/tiny."""
    if not (RAY_ENVIRONMENT / "bin" / "ray").exists():
        pytest.skip(f"{RAY_ENVIRONMENT} has no Ray: make cluster-environment")
    submitted = cluster.run(
        "sbatch", "--parsable", "--exclusive", f"--chdir={ROOT}", f"--output={tmp_path}/job.out", SCRIPT,
        *TINY, "--quiet", "--json", "--name", "tiny", "--runs-dir", str(tmp_path), *arguments,
        RAY_ENVIRONMENT=str(RAY_ENVIRONMENT), JOB_PYTHON=sys.executable, TMPDIR=str(cluster.folder),
        PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1",
    )  # fmt: skip
    assert submitted.returncode == 0, submitted.stderr
    return submitted.stdout.strip()


def test_the_local_job_runs_on_a_worker_node(cluster: Cluster, tmp_path: Path) -> None:
    ended = cluster.wait(submit(cluster, tmp_path, "--steps", "1"), 300, tmp_path / "job.out")
    assert (ended.state, ended.exit_code) == ("COMPLETED", 0), ended.output
    assert "n1: the job runs on node n2" in ended.output
    summary = json.loads(next(line for line in ended.output.splitlines() if line.startswith("{")))
    assert summary["tokens"] > 0
    assert summary["drafter_version"] == summary["policy_version"] == 1
    assert (tmp_path / "tiny" / "report.html").exists()
    assert not list(cluster.folder.glob("ray.*")), "Ray's session is left behind"


def test_the_jobs_own_error_is_the_jobs_error(cluster: Cluster, tmp_path: Path) -> None:
    ended = cluster.wait(submit(cluster, tmp_path, "--steps", "0"), 120, tmp_path / "job.out")
    assert ended.state == "FAILED"
    assert ended.exit_code == 2
    assert "error: --steps is 0: give at least 1" in ended.output
    assert "error: the job on node n2 ended with exit code 2" in ended.output


def test_a_killed_node_ends_the_job_with_a_clear_line(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(cluster, tmp_path, "--steps", "1000")
    wait_until(lambda: text_of(tmp_path / "tiny" / "job.log") != "", 120, "the job to start on n2")
    cluster.kill_node("n2")
    killed = time.monotonic()
    ended = cluster.wait(job, SILENCE, tmp_path / "job.out")
    assert ended.exit_code == 1, ended.output
    assert "error: node n2 was lost while the job ran on it" in ended.output or "Ray ended on a node" in ended.output
    assert time.monotonic() - killed < SILENCE, "it took Slurm to notice"


def test_one_node_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    if not (RAY_ENVIRONMENT / "bin" / "ray").exists():
        pytest.skip(f"{RAY_ENVIRONMENT} has no Ray: make cluster-environment")
    submitted = cluster.run(
        "sbatch", "--parsable", "--nodes=1", f"--chdir={ROOT}", f"--output={tmp_path}/job.out", SCRIPT,
        RAY_ENVIRONMENT=str(RAY_ENVIRONMENT), JOB_PYTHON=sys.executable,
    )  # fmt: skip
    ended = cluster.wait(submitted.stdout.strip(), 30, tmp_path / "job.out")
    assert ended.exit_code == 2
    assert "error: one node given; two or more are needed" in ended.output
