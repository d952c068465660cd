"""`efficientrollout doctor --engine`: the real engine, in this environment, by the doctor's own processes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nemo_rl_efficientrollout import read_settings
from nemo_rl_efficientrollout.doctor import Job
from nemo_rl_efficientrollout.doctor.engine import engine_finding
from nemo_rl_efficientrollout.doctor.environments import Environment

pytestmark = pytest.mark.engine


def doctor(*arguments: str, **variables: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code, and findings by name."""
    command = [sys.executable, "-c", "from nemo_rl_efficientrollout.cli import main; main()", "doctor", "--json"]
    environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"} | variables
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=600, env=environment)
    assert "Traceback" not in done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["verdict"] == ("no-go" if done.returncode else "go")
    return done.returncode, {finding["name"]: finding for finding in report["findings"]}


def test_the_engine_drafts_and_verifies() -> None:
    code, found = doctor("--engine")
    assert code == 0, found
    assert found["engine [driver]"]["verdict"] == "ok"
    assert found["engine [driver]"]["found"].partition(" ")[0] != "0"
    assert "drafter as new as the policy" in found["engine [driver]"]["found"]


def test_a_plugin_that_is_kept_out_is_no_go() -> None:
    code, found = doctor("--engine", VLLM_PLUGINS="lora_filesystem_resolver")
    assert code == 1
    assert found["plugin [driver]"]["verdict"] == "fail"
    assert "VLLM_PLUGINS=lora_filesystem_resolver keeps it out" in found["plugin [driver]"]["found"]
    assert found["engine [driver]"]["verdict"] == "not checked"


def test_an_engine_whose_workers_lack_the_plugin_is_no_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the check of the plugin were wrong: the engine itself must have drafted."""
    monkeypatch.setenv("VLLM_PLUGINS", "lora_filesystem_resolver")
    found = engine_finding(Environment("here", Path(sys.executable), needed=True), Job())
    assert found.verdict == "fail"
    assert "plugin" in found.found


def test_a_format_without_kernel_is_no_go_with_its_reason() -> None:
    what = Job(settings=read_settings({"drafter": {"format": "fp8_block"}}))
    found = engine_finding(Environment("here", Path(sys.executable), needed=True), what)
    assert found.verdict == "fail"
    assert "format 'fp8_block' has no kernel here" in found.found
