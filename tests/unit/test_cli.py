"""The command line: what it prints, and one line with exit code 2 for every mistake."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import nemo_rl_efficientrollout.cli as cli

PATHS = {"PYTHONPATH": str(Path(cli.__file__).parents[2])}


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


def test_a_folder_with_the_marks_of_rich_text_is_shown_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "[bold]"
    folder.mkdir()
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    (folder / "config.json").write_text(json.dumps(sizes | {"model_type": "qwen2", "vocab_size": 64}))
    done = run("drafter", "size", "--model", str(folder), "--format", "bf16")
    assert done.returncode == 0, done.stderr
    assert "[bold]" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["kwargs", "m", "--set", f"gate.seed={'[' * 100_000}"],
        ["gate", "decide", "--calibration", "x" * 5000, "--draft-lengths", "3"],
        ["gate", "fit", "--sweep", "x\ny", "--out", "z"],
        ["report", "x\ny" * 2000],
        ["nonsense\n" * 2000],
    ],
    ids=range(5),
)
def test_one_line_whatever_is_given(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert len(done.stderr) < 2000


def test_an_operating_systems_refusal_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "here")

    monkeypatch.setattr(cli, "app", full)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "efficientrollout: [Errno 28] No space left on device: 'here'\n"


def test_what_the_terminal_cannot_show_costs_no_result() -> None:
    code = "import sys; from nemo_rl_efficientrollout.cli import main, app; import typer\n"
    code += "@app.command()\ndef say(): typer.echo('γ \\ud800')\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code, "say"],
        capture_output=True, text=True, check=False, env={"PYTHONIOENCODING": "utf-8"} | PATHS,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "γ \\ud800\n")
