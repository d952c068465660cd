"""Files on a disk that is really full, and calibrations that are none: one line, and nothing half-written."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.grpo_math.problems import Problem, write_problems
from examples.grpo_math.record import Record
from nemo_rl_efficientrollout.compare import compare, read_run
from nemo_rl_efficientrollout.compare.html import write_comparison
from nemo_rl_efficientrollout.errors import UserError
from nemo_rl_efficientrollout.files import append_whole
from nemo_rl_efficientrollout.gate.calibration import Provenance, from_fit, load, save
from nemo_rl_efficientrollout.gate.fit import fit
from nemo_rl_efficientrollout.report import write_report
from tests import sweeps
from tests.faults.disks import fill, small_disk
from tests.faults.observed import error_of, note
from tests.job.test_record import FACTS, step
from tests.proof import Proof

OLD = b"old content"


@pytest.fixture(scope="module")
def calibration() -> Any:
    timings = sweeps.measured(sweeps.truth())[::9]
    return from_fit(fit(timings), timings, Provenance(gpu="A100", model="7B", vllm="0.32.0"))


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """A run of three steps."""
    record = Record(tmp_path_factory.mktemp("run"), **FACTS)
    for number in (1, 2, 3):
        record.add(step(number))
    return record


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as folder:
        yield folder


def writers(record: Record, calibration: Any) -> dict[str, Callable[[Path], Any]]:
    run = read_run(str(record.run_dir))
    problems = [Problem("1+1?", "2", "")] * 500
    return {
        "report.html": lambda path: write_report(record.report(), path),
        "calibration": lambda path: save(calibration, path),
        "compare page": lambda path: write_comparison(compare(run, run, 1), path),
        "problems.jsonl": lambda path: write_problems(path, problems),
    }


@pytest.mark.parametrize("what", ["report.html", "calibration", "compare page", "problems.jsonl"])
def test_a_full_disk_leaves_the_old_file_whole(
    what: str, record: Record, calibration: Any, disk: Path, proof: Proof
) -> None:
    path = disk / "file"
    path.write_bytes(OLD)
    fill(disk, leave=4096)
    error = error_of(lambda: writers(record, calibration)[what](path))
    whole = path.read_bytes() == OLD and sorted(p.name for p in disk.iterdir()) == ["file", "filler"]
    clear = "No space left on device" in error and len(error.splitlines()) == 1
    expected = "one clear line; the old file as it was, nothing beside it"
    note(proof, "disk full", what, expected, f"{error}; old file whole: {whole}", whole and clear)


def test_a_full_disk_leaves_whole_steps_and_the_last_report(disk: Path, proof: Proof) -> None:
    record = Record(disk / "run", **FACTS)
    record.add(step(1))
    fill(disk, leave=0)
    errors = []
    for number in range(2, 12):  # until the page of steps.jsonl that is there already is full as well
        errors.append(error_of(lambda number=number: record.add(step(number))))
    lines = (disk / "run" / "steps.jsonl").read_text()
    steps = [json.loads(line)["step"] for line in lines.splitlines()]
    report = json.loads(record.report_path.read_text())
    whole = lines.endswith("\n") and steps == list(range(1, len(steps) + 1)) and report["steps"] == 1
    files = sorted(p.name for p in (disk / "run").iterdir())
    clear = all(e.startswith("UserError: cannot write") and "No space left" in e for e in errors)
    note(
        proof, "disk full", "steps.jsonl and report.json", "one clear line a step; only whole lines and a whole report",
        f"{errors[0]}; {len(steps)} whole lines, report of {report['steps']} step",
        whole and clear and 1 < len(steps) < 11 and files == ["report.json", "steps.jsonl"],
    )  # fmt: skip


def test_a_line_is_appended_whole_or_not_at_all(disk: Path, proof: Proof) -> None:
    path = disk / "steps.jsonl"
    append_whole(path, b"first\n")
    fill(disk, leave=0)
    error = error_of(lambda: append_whole(path, b"x" * 9000 + b"\n"))
    left = path.read_bytes()
    note(
        proof, "disk full in the middle of a line", "steps.jsonl", "an error; no part of the line",
        f"{error}; {len(left)} bytes left of {len(b'first') + 1}", "No space" in error and left == b"first\n",
    )  # fmt: skip


CORRUPT: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "version of the future": lambda content: content.replace(b'"version": 1', b'"version": 2', 1),
    "another schema": lambda content: content.replace(b"efficientrollout.calibration", b"other", 1),
    "binary": lambda content: bytes(range(256)) * 9,
    "zeros": lambda content: bytes(4096),
    "nested without end": lambda content: b"[" * 200_000,
    "a negative time": lambda content: content.replace(b'"mean": ', b'"mean": -', 1),
    "NaN": lambda content: content.replace(b'"mean": ', b'"mean": NaN, "was": ', 1),
}


@pytest.mark.parametrize("kind", CORRUPT)
def test_a_corrupt_calibration_is_one_line(kind: str, calibration: Any, tmp_path: Path, proof: Proof) -> None:
    path = tmp_path / "calibration.json"
    save(calibration, path)
    path.write_bytes(CORRUPT[kind](path.read_bytes()))
    with pytest.raises(UserError) as caught:
        load(path)
    error = str(caught.value)
    survived = len(error.splitlines()) == 1 and "calibration.json" in error and "gate fit" in error
    note(proof, f"calibration: {kind}", "calibration file", "one line: file, fault, what to do", error, survived)
