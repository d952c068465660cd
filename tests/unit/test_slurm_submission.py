"""What train.sh and train_pair.sh submit and what they refuse, with a stand-in for sbatch. No Slurm needed."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "examples" / "grpo_math" / "slurm"
PLAIN = "grpo-qwen2.5-7b-1n8g-megatron"
SBATCH = """#!/bin/bash
# Numbers jobs from 1; notes what each was given, and the variables that it would run with.
job=$(($(wc -l < jobs 2> /dev/null || echo 0) + 1))
echo "$* | $ALGORITHM $GPUS_PER_NODE $MOUNTS $BASE_LOG_DIR $WHEEL" >> jobs
echo $job
"""


class Submitter:
    """A folder to submit from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("nemo-rl", "bin", "wheels"):
            (folder / name).mkdir()
        (folder / "bin" / "sbatch").write_text(SBATCH)
        (folder / "bin" / "sbatch").chmod(0o755)
        for file in ("nemo-rl/ray.sub", f"{PLAIN}.yaml", f"{PLAIN}-efficientrollout.yaml", "wheels/ours.whl"):
            (folder / file).touch()
        self.environment = {
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "CONTAINER": "image",
            "NEMO_RL_SOURCE": "nemo-rl",
        }

    def submit(self, script: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            (str(SCRIPTS / script), *arguments), cwd=self.folder, env=self.environment | more,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def jobs(self) -> list[str]:
        jobs = self.folder / "jobs"
        return jobs.read_text().splitlines() if jobs.exists() else []


@pytest.fixture
def submitter(tmp_path: Path) -> Submitter:
    return Submitter(tmp_path)


def test_nodes_gpus_and_algorithm_come_from_the_recipes_name(submitter: Submitter) -> None:
    (submitter.folder / "ppo-tiny-4n2g-x.yaml").touch()
    done = submitter.submit("train.sh", "ppo-tiny-4n2g-x.yaml", "a=1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("job 1: ppo-tiny-4n2g-x; ")
    options, variables = submitter.jobs()[0].split(" | ")
    assert "--nodes=4 --job-name=ppo-tiny-4n2g-x" in options
    assert options.endswith(f"train.sbatch {submitter.folder}/ppo-tiny-4n2g-x.yaml a=1")
    assert variables.startswith("ppo 2 ")


def test_what_the_job_reads_is_mounted_once(submitter: Submitter) -> None:
    folder = submitter.folder
    submitter.submit("train.sh", f"{PLAIN}.yaml", WHEEL="wheels/ours.whl", MOUNTS=f"/data:/data,{folder}:{folder}")
    mounts = submitter.jobs()[0].split(" | ")[1].split()[2]
    repository = SCRIPTS.parents[2]
    expected = ["/data:/data", *(f"{path}:{path}" for path in (folder, repository, folder / "runs", folder / "wheels"))]
    assert mounts.split(",") == expected


def test_a_pair_is_compared_when_both_have_ended(submitter: Submitter) -> None:
    done = submitter.submit("train_pair.sh", f"{PLAIN}-efficientrollout.yaml", "a=1")
    assert done.returncode == 0, done.stderr
    plain, accelerated, compare = (job.split(" | ")[0] for job in submitter.jobs())
    assert plain.endswith(f"{PLAIN}.yaml logger.tensorboard_enabled=true checkpointing.enabled=false a=1")
    assert accelerated.endswith(
        f"{PLAIN}-efficientrollout.yaml logger.tensorboard_enabled=true checkpointing.enabled=false a=1"
    )
    assert "--dependency=afterany:1:2" in compare
    runs = submitter.folder / "runs"
    assert f"compare.sbatch {runs}/{PLAIN}/1 {runs}/{PLAIN}-efficientrollout/2 " in compare


@pytest.mark.parametrize(
    ("arguments", "variables", "line"),
    [
        (("train.sh",), {}, "train.sh: give a recipe: train.sh RECIPE [NEMO_RL_ARGUMENT…]"),
        (("train.sh", "none.yaml"), {}, "train.sh: none.yaml: no such recipe"),
        (("train.sh", "jobs.yaml"), {}, "train.sh: {folder}/jobs.yaml: expected a name such as grpo-qwen2.5-7b-1n8g"),
        (("train.sh", f"{PLAIN}.yaml"), {"CONTAINER": ""}, "train.sh: CONTAINER is not set"),
        (("train.sh", f"{PLAIN}.yaml"), {"NEMO_RL_SOURCE": "bin"}, "train.sh: NEMO_RL_SOURCE='bin' has no ray.sub"),
        (("train.sh", f"{PLAIN}.yaml"), {"WHEEL": "no.whl"}, "train.sh: WHEEL='no.whl': no such file"),
        (("train.sh", f"{PLAIN}.yaml"), {"RUNS": "my runs"}, "train.sh: '{folder}/my runs' cannot be mounted"),
        (("train_pair.sh", f"{PLAIN}.yaml"), {}, f"train_pair.sh: {PLAIN}.yaml: expected a recipe with -efficientroll"),
        (("train_pair.sh", "a-efficientrollout.yaml"), {}, "train_pair.sh: ./a.yaml: no such recipe; it is the plain"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_submit_nothing(
    submitter: Submitter, arguments: tuple[str, ...], variables: dict[str, str], line: str
) -> None:
    (submitter.folder / "jobs.yaml").touch()
    done = submitter.submit(*arguments, **variables)
    assert done.returncode == 2
    assert done.stderr.startswith(line.format(folder=submitter.folder))
    assert done.stderr.count("\n") == 1
    assert submitter.jobs() == []
