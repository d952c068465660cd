"""The command line: what it prints, and one line with exit code 2 for every mistake."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from nemo_rl_efficientrollout.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_kwargs_prints_engine_arguments() -> None:
    done = run("kwargs", "some/model", "--set", "gate.mode=fixed", "--set", "gate.draft_length=2")
    assert done.returncode == 0
    assert json.loads(done.stdout)["additional_config"]["efficientrollout"]["gate"]["draft_length"] == 2


def test_version_names_the_supported_engines() -> None:
    assert "supported: 0.25.1, 0.32.0" in run("version").stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["kwargs", "m", "--set", "gte.mode=off"], "did you mean 'gate'"),
        (["kwargs", "m", "--set", "nonsense"], "key=value"),
        (["report", "/no/such/run"], "/no/such/run: no such folder"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments: list[str], expected: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_report_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{")
    done = run("report", str(tmp_path))
    assert done.returncode == 2
    assert "not valid JSON" in done.stderr
    assert not (tmp_path / "report.html").exists()
