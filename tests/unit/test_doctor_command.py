"""`efficientrollout doctor`: what it prints, and its exit codes."""

import importlib
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from nemo_rl_efficientrollout import __version__
from nemo_rl_efficientrollout.cli.doctor import doctor
from nemo_rl_efficientrollout.doctor import Finding
from nemo_rl_efficientrollout.drafter.shapes import model_shape
from nemo_rl_efficientrollout.drafter.size import policy_size
from tests.stub_environments import bare_environment, worker_environment
from tests.unit.test_doctor import QWEN

COMMAND = [sys.executable, "-c", "from nemo_rl_efficientrollout.cli import main; main()", "doctor"]


def run(*arguments: str, command: Sequence[str] = COMMAND) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300)


FINDINGS = (
    Finding("GPU", "warn", "none: CPU only", "buy one"),
    Finding("plugin [x]", "fail", "kept out", "let it in"),
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    return tmp_path


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What `examine` will answer."""
    findings = list(FINDINGS)
    module = importlib.import_module("nemo_rl_efficientrollout.cli.doctor")
    monkeypatch.setattr(module, "examine", lambda *arguments: findings)
    return findings


def call(**arguments: Any) -> int:
    try:
        doctor(**arguments)
    except typer.Exit as end:
        return end.exit_code
    return 0


def test_json_has_verdict_host_and_findings(found: list[Finding], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(as_json=True) == 1
    report = json.loads(capsys.readouterr().out)
    assert report == {
        "verdict": "no-go",
        "host": platform.node(),
        "findings": [
            {"name": "GPU", "verdict": "warn", "found": "none: CPU only", "advice": "buy one"},
            {"name": "plugin [x]", "verdict": "fail", "found": "kept out", "advice": "let it in"},
        ],
    }
    found.pop()
    assert call(as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "go"


def test_quiet_says_only_what_failed(found: list[Finding], capsys: pytest.CaptureFixture[str]) -> None:
    assert call(quiet=True) == 1
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "efficientrollout: plugin [x]: kept out; let it in\n")


def test_the_table_has_every_finding(found: list[Finding], capsys: pytest.CaptureFixture[str]) -> None:
    assert call() == 1
    printed = capsys.readouterr().out
    for part in ("none: CPU only", "buy one", "plugin [x]", "kept out", "let it in", "no-go: 1 failed, 1 warnings"):
        assert part in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "/no/such/model"], "/no/such/model has no config.json"),
        (["--worker-python", "/no/such/python"], "--worker-python /no/such/python is no interpreter"),
        (["a.b=1"], "'a.b=1' overrides a configuration"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_this_machine_without_its_engine(model: Path) -> None:
    """The real thing: vLLM's own plugins and kernels in this interpreter."""
    done = run("--json", "--no-engine", "--model", str(model))
    assert done.returncode == 0, done.stdout + done.stderr
    found = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert found["plugin [driver]"]["verdict"] == "ok"
    assert found["package [driver]"]["found"] == f"{__version__}, as in the driver"
    assert "int8: " in found["kernels [driver]"]["found"]
    assert found["engine [driver]"]["verdict"] == "not checked"
    policy = sum(policy_size(model_shape(QWEN)).values()) / 2**30
    assert f"policy {policy:.2f} GiB" in found["memory"]["found"]


def test_a_machine_without_torch_and_vllm_is_no_go_and_no_traceback(tmp_path: Path, model: Path) -> None:
    python = bare_environment(tmp_path / "bare")
    command = [str(python), *COMMAND[1:]]
    done = run("--json", "--model", str(model), command=command)
    assert (done.returncode, done.stderr) == (1, "")
    found = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert found["worker environments"]["verdict"] == "fail"
    assert "No module named 'torch'" in found["torch"]["found"]
    assert "torch does not load here" in found["memory"]["found"]
    assert {found[name]["verdict"] for name in ("vLLM", "NeMo-RL", "ray")} == {"warn"}


def test_a_driver_without_vllm_is_fine_where_a_worker_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    worker = worker_environment(tmp_path / "worker")
    done = run(
        "--quiet", "--worker-python", str(worker), command=[str(bare_environment(tmp_path / "bare")), *COMMAND[1:]]
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
