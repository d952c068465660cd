"""The real job under faults: what its user sees, and what is left on disk."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from nemo_rl_efficientrollout.compare import read_run
from tests.faults.disks import fill, small_disk
from tests.faults.observed import note
from tests.proof import Proof

pytestmark = pytest.mark.engine
FULL = pytest.mark.full
ROOT = Path(__file__).parents[2]
JOB = ["-m", "examples.grpo_math"]
ARGUMENTS = ["--warm-start-steps", "20", "--max-new-tokens", "48", "--prompts-per-step", "2", "--group", "4"]
GATE = ["--set", "gate.mode=fixed", "--set", "gate.draft_length=2"]
ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "VLLM_ENABLE"))}
WHOLE = "whole steps and report"


@dataclass
class Seen:
    """What was left of a job."""

    code: int
    out: str
    err: str
    run_dir: Path

    @property
    def line(self) -> str:
        """Its last words."""
        return ([line for line in self.err.splitlines() if line.startswith("error")] or [""])[-1]

    def files(self) -> str:
        """WHOLE, if every file of the run can be read to its end and all agree; else what is wrong."""
        text = (self.run_dir / "steps.jsonl").read_text()
        steps = [json.loads(line)["step"] for line in text.splitlines()]
        report = json.loads((self.run_dir / "report.json").read_text())
        if steps != list(range(1, len(steps) + 1)) or not text.endswith("\n"):
            return f"steps.jsonl has steps {steps}"
        if not len(steps) - 1 <= report["steps"] <= len(steps):
            return f"report.json has {report['steps']} steps of {len(steps)}"
        if left := [path.name for path in self.run_dir.glob(".*.tmp")]:
            return f"{left} left over"
        read_run(str(self.run_dir))
        return WHOLE

    def has_page(self) -> bool:
        page = self.run_dir / "report.html"
        return page.exists() and page.read_text().rstrip().endswith("</html>")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@contextmanager
def job(
    runs: Path, name: str, steps: int, program: list[str] = JOB, **environment: str
) -> Iterator[Callable[..., Seen]]:
    """A job that is under way; ask for what it left, and it is waited for."""
    command = [sys.executable, *program, "--runs-dir", str(runs), "--name", name, "--steps", str(steps)]
    process = subprocess.Popen(
        [*command, *ARGUMENTS, *GATE],
        cwd=ROOT,
        env=ENVIRONMENT | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where tests run in the background
    )

    def end(strike: Callable[[psutil.Process], None] | None = None, when: str = "steps.jsonl") -> Seen:
        if strike is not None:
            _wait_for(process, runs / name / when)
            strike(psutil.Process(process.pid))
        out, err = process.communicate(timeout=150)
        return Seen(process.returncode, out, err, runs / name)

    try:
        yield end
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def _wait_for(process: subprocess.Popen, file: Path) -> None:
    """Until `file` is there; `steps.jsonl` with two steps."""
    deadline = time.monotonic() + 150
    while not (file.exists() and (file.suffix != ".jsonl" or file.read_text().count("\n") >= 2)):
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def sent(number: signal.Signals) -> Callable[[psutil.Process], None]:
    return lambda process: process.send_signal(number)


def engine_core_killed(process: psutil.Process) -> None:
    (core,) = [child for child in process.children() if "EngineCore" in " ".join([child.name(), *child.cmdline()])]
    core.kill()


def faulty(fault: str) -> list[str]:
    return ["-m", "tests.faults.faulty_job", fault]


@FULL
def test_the_engines_process_is_killed(runs: Path, proof: Proof) -> None:
    with job(runs, "killed", 500, VLLM_ENABLE_V1_MULTIPROCESSING="1") as end:
        seen = end(engine_core_killed)
    files = seen.files()
    note(
        proof, "kill -9 of the engine core", "GRPO job", "one clear line, exit code 1; whole files",
        f"exit code {seen.code}; {seen.line}; {files}",
        seen.code == 1 and "the rollout engine died after" in seen.line and "Traceback" not in seen.err
        and files == WHOLE and seen.has_page() and not seen.out,
    )  # fmt: skip


@FULL
def test_the_job_itself_is_killed_and_started_again(runs: Path, proof: Proof) -> None:
    with job(runs, "again", 500) as end:
        seen = end(sent(signal.SIGKILL))
    files = seen.files()
    with job(runs, "again", 1) as end:
        second = end()
    report = json.loads((runs / "again" / "report.json").read_text())
    versions = report["policy_version"], report["drafter_version"]
    note(
        proof, "kill -9 of the job", "GRPO job", "whole files; the next run of that name has a fresh drafter",
        f"exit code {seen.code}; {files}; next run: exit code {second.code}, {second.files()}, policy and drafter"
        f" version {versions[0]} and {versions[1]}, acceptance {report['acceptance_rate'][0]:.2f}",
        seen.code == -9 and files == second.files() == WHOLE and second.code == 0 and versions == (1, 1)
        and report["acceptance_rate"][0] > 0.5,
    )  # fmt: skip


@FULL
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)],
    ids=lambda value: str(value),
)
def test_a_step_that_never_returns(number: signal.Signals, code: int, runs: Path, proof: Proof) -> None:
    name = signal.Signals(number).name
    with job(runs, name, 500, faulty("hang")) as end:
        seen = end(sent(number), when="struck")
    files, page = seen.files(), seen.has_page()
    wanted = "whole steps and report.json" if number == signal.SIGKILL else "whole files, report.html too"
    note(
        proof, f"a step hangs, then {name}", "GRPO job, in mid-rollout", wanted,
        f"exit code {seen.code}; {files}; report.html: {'whole' if page else 'none'}",
        seen.code == code and files == WHOLE and page == (number != signal.SIGKILL) and "Traceback" not in seen.err,
    )  # fmt: skip


@FULL
def test_an_exception_in_mid_rollout(runs: Path, proof: Proof) -> None:
    with job(runs, "exception", 500, faulty("exception")) as end:
        seen = end()
    files = seen.files()
    note(
        proof, "exception in a step", "GRPO job, in mid-rollout", "the error, exit code 1; whole files",
        f"exit code {seen.code}; {seen.err.splitlines()[-2]}; {files}",
        seen.code == 1 and "ZeroDivisionError: injected" in seen.err and "job.log" in seen.err
        and files == WHOLE and seen.has_page(),
    )  # fmt: skip


@FULL
def test_clocks_that_jump(runs: Path, proof: Proof) -> None:
    with job(runs, "clocks", 3, faulty("clocks")) as end:
        seen = end()
    report = json.loads((seen.run_dir / "report.json").read_text())
    times = [value for key in report if key.endswith("_seconds") for value in report[key]]
    for timeline in report["timeline"]:
        times += [*timeline["seconds"], *timeline["step_seconds"]]
    hours = max(times) / 3600
    note(
        proof, "clocks jump by hours", "GRPO job", "exit code 0; whole files without a negative time",
        f"exit code {seen.code}; {seen.files()}; of {len(times)} times the least is {min(times):.2g} s,"
        f" the longest {hours:.0f} hours",
        seen.code == 0 and seen.files() == WHOLE and min(times) >= 0.0 and hours > 0.9 and seen.has_page(),
    )  # fmt: skip


@FULL
def test_the_disk_fills_up(tmp_path: Path, proof: Proof) -> None:
    with small_disk(tmp_path / "disk", kilobytes=16 << 10) as disk:
        with job(disk, "full", 500) as end:
            seen = end(lambda _: fill(disk))
        files = seen.files()
    note(
        proof, "disk full", "GRPO job", "one clear line, exit code 2; whole files",
        f"exit code {seen.code}; {seen.line}; {files}",
        seen.code == 2 and "No space left on device" in seen.line and "Traceback" not in seen.err and files == WHOLE,
    )  # fmt: skip


@FULL
def test_the_disk_of_wandb_fills_up(tmp_path: Path, proof: Proof) -> None:
    with small_disk(tmp_path / "runs" / "wandb-full" / "wandb", kilobytes=512) as disk:
        with job(tmp_path / "runs", "wandb-full", 6) as end:
            seen = end(lambda _: fill(disk))
        files = seen.files()
    steps = json.loads((seen.run_dir / "report.json").read_text())["steps"]
    note(
        proof, "disk of W&B's offline run full", "GRPO job", "the job goes on, or a clear error",
        f"exit code {seen.code}; {steps} of 6 steps; {seen.line or 'no error'}; {files}",
        steps == 6 and files == WHOLE and seen.has_page() and "Traceback" not in seen.err
        and (seen.code == 0 or (seen.code == 2 and "No space left on device" in seen.line)),
    )  # fmt: skip


WRITER = """
import sys
from pathlib import Path
from examples.grpo_math.streams import library_output_in
from nemo_rl_efficientrollout.errors import UserError

try:
    with library_output_in(Path(sys.argv[1])) as terminal:
        for _ in range(99):
            print("words of a library" * 99)
except UserError as error:
    print("error:", error, file=sys.stderr)
    sys.exit(2)
"""


def test_a_full_log_gives_the_terminal_back(tmp_path: Path, proof: Proof) -> None:
    with small_disk(tmp_path / "disk") as disk:
        fill(disk)
        command = [sys.executable, "-c", WRITER, str(disk / "job.log")]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    lines = done.stderr.splitlines()
    note(
        proof, "disk full", "job.log", "one clear line on the terminal, exit code 2",
        f"exit code {done.returncode}; {lines[0] if lines else 'nothing'}; {len(done.stdout)} bytes on stdout",
        done.returncode == 2 and len(lines) == 1 and "No space left on device" in lines[0] and not done.stdout,
    )  # fmt: skip
