"""Our jobs over NeMo-RL's real ray.sub on two real Slurm nodes. Stand-ins: pyxis, Ray's command, and our own."""

import os
import re
import shutil
from pathlib import Path

import pytest

from .cluster import SILENCE, Cluster, Ended, text_of, wait_until

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "examples" / "grpo_math" / "slurm"
STAND_INS = Path(__file__).parent / "stand_ins"
SOURCE = os.environ.get("NEMO_RL_SOURCE", "")
SIDECAR = 60
"""Seconds after which ray.sub's nodes look at its sign that the job is to end."""
SCHEDULED = 120
"""Seconds within which Slurm starts a job whose dependencies have ended, and the job ends: it looks once a minute."""

pytestmark = pytest.mark.skipif(
    not (Path(SOURCE) / "ray.sub").is_file(), reason="NEMO_RL_SOURCE is not the folder of a NeMo-RL checkout"
)

PLAIN = "grpo-tiny-2n8g-test"
ACCELERATED = f"{PLAIN}-efficientrollout"


class Submission:
    """A folder to submit from, with two recipes, and what the stand-ins say and are told."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder, self.state = cluster, folder, folder / "state"
        self.state.mkdir()
        for name in (PLAIN, ACCELERATED):
            (folder / f"{name}.yaml").write_text("")

    def submit(self, script: str, recipe: str, *arguments: str) -> list[str]:
        """Numbers of the jobs."""
        done = self.cluster.run(
            "env", f"--chdir={self.folder}", f"{SCRIPTS}/{script}", f"{recipe}.yaml", *arguments,
            NEMO_RL_SOURCE=SOURCE, CONTAINER="image", SBATCH_ACCOUNT="nobody", WHEEL="",
            PATH=f"{STAND_INS}:{os.environ['PATH']}", REAL_SRUN=str(shutil.which("srun")),
            STAND_IN_STATE=str(self.state),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return re.findall(r"^job (\d+):", done.stdout, re.MULTILINE)

    def output(self, recipe: str, job: str) -> Path:
        return self.folder / "runs" / recipe / f"{job}.out"

    def wait(self, recipe: str, job: str, seconds: float) -> Ended:
        return self.cluster.wait(job, seconds, self.output(recipe, job))

    def calls(self) -> list[str]:
        """What the stand-in for our command was asked, with the node's name."""
        return text_of(self.state / "calls").splitlines()


@pytest.fixture
def submission(cluster: Cluster, tmp_path: Path) -> Submission:
    return Submission(cluster, tmp_path)


def test_ray_sub_reads_what_we_set_and_writes_what_we_read() -> None:
    text = (Path(SOURCE) / "ray.sub").read_text()
    for name in ("CONTAINER", "MOUNTS", "COMMAND", "SETUP_COMMAND", "BASE_LOG_DIR", "GPUS_PER_NODE"):
        assert re.search(rf"\${{?{name}\b", text), f"ray.sub does not read {name}"
    for fact in (
        'LOG_DIR="$BASE_LOG_DIR/$SLURM_JOB_ID-logs"',
        'SETUP_COMMAND_FILE="$LOG_DIR/setup_command.sh"',
        'bash "$SETUP_COMMAND_FILE"',
        '-f "$LOG_DIR/ENDED"',
        '"$LOG_DIR/ray-driver.log"',
    ):
        assert fact in text, f"ray.sub no longer has: {fact}"


def test_a_pair_is_trained_and_compared(submission: Submission) -> None:
    plain, accelerated, compare = submission.submit("train_pair.sh", ACCELERATED, "grpo.max_num_steps=3", "a.b='x y'")
    for recipe, job in ((PLAIN, plain), (ACCELERATED, accelerated)):
        ended = submission.wait(recipe, job, 120)
        assert (ended.state, ended.exit_code) == ("COMPLETED", 0), ended.output
    comparison = submission.folder / "runs" / ACCELERATED / f"compare-{compare}.out"
    ended = submission.cluster.wait(compare, SCHEDULED, comparison)
    assert (ended.state, ended.exit_code) == ("COMPLETED", 0), ended.output

    runs = submission.folder / "runs"
    expected = []
    for recipe, job in ((PLAIN, plain), (ACCELERATED, accelerated)):
        expected.append({"n1: efficientrollout doctor", "n2: efficientrollout doctor"})
        run = f"run grpo --config {submission.folder}/{recipe}.yaml logger.log_dir={runs}/{recipe}/{job}"
        fresh = "logger.tensorboard_enabled=true checkpointing.enabled=false"
        expected.append({f"n1: efficientrollout {run} {fresh} grpo.max_num_steps=3 a.b='x y'"})
    calls = submission.calls()
    assert [set(calls[0:2]), set(calls[2:3]), set(calls[3:5]), set(calls[5:6])] == expected
    assert calls[6].endswith(
        f"efficientrollout compare {runs}/{PLAIN}/{plain}/exp_001 {runs}/{ACCELERATED}/{accelerated}/exp_001 "
        f"--out {runs}/{ACCELERATED}/compare-{accelerated}.html"
    )
    assert len(calls) == 7


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_node_that_the_doctor_refuses_stops_the_job(submission: Submission, node: str) -> None:
    (submission.state / f"no-go-{node}").touch()
    (job,) = submission.submit("train.sh", ACCELERATED)
    ended = submission.wait(ACCELERATED, job, SIDECAR + 60)
    logs = submission.folder / "runs" / ACCELERATED / f"{job}-logs"
    assert ended.exit_code != 0, ended.output
    assert f"error: node {node}: efficientrollout doctor says no-go (exit code 1)" in ended.output
    assert "vLLM 0.9.9 is not supported" in (logs / f"doctor-{node}.txt").read_text()
    assert not [call for call in submission.calls() if "efficientrollout run" in call], "training began"


def test_a_comparison_without_steps_says_so(submission: Submission) -> None:
    for node in ("n1", "n2"):
        (submission.state / f"no-go-{node}").touch()
    _, accelerated, compare = submission.submit("train_pair.sh", ACCELERATED)
    submission.wait(ACCELERATED, accelerated, 2 * (SIDECAR + 60))
    ended = submission.cluster.wait(
        compare, SCHEDULED, submission.folder / "runs" / ACCELERATED / f"compare-{compare}.out"
    )
    assert (ended.state, ended.exit_code) == ("FAILED", 1)
    assert "has no exp_* folder: that job ended before its first step" in ended.output


def test_a_killed_node_ends_the_job_with_a_clear_line(submission: Submission) -> None:
    (submission.state / "run-on").touch()
    (job,) = submission.submit("train.sh", ACCELERATED)
    wait_until(lambda: any("efficientrollout run" in call for call in submission.calls()), 90, "training to begin")
    submission.cluster.kill_node("n2")
    ended = submission.wait(ACCELERATED, job, SILENCE + SIDECAR + 30)
    assert ended.state != "COMPLETED"
    assert "error: Slurm reports as down: n2" in ended.output or "DUE TO NODE FAILURE" in ended.output
