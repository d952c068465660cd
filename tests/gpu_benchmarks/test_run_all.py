"""The script that runs all GPU benchmarks: what it skips, what it resumes, what it says of failures."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "run_all.sh"
FAKE = """#!/usr/bin/env bash
[[ $1 == -c ]] && exit "${FAKE_PLUGIN:-0}"
echo "$*" >>"$FAKE_CALLS"
if [[ $2 == *"$FAKE_FAILS"* ]]; then
    [[ $FAKE_FAILS == probe ]] && exec sleep 60
    exit 3
fi
while [[ $# -gt 0 ]]; do
    case $1 in --json | --markdown) echo '{}' >"$2" ;; esac
    shift
done
"""
"""A Python that takes notes."""


class Runner:
    """The script with that Python."""

    def __init__(self, folder: Path) -> None:
        self.out, self._calls, self._python = folder / "out", folder / "calls", folder / "python"
        self._python.write_text(FAKE)
        self._python.chmod(self._python.stat().st_mode | stat.S_IXUSR)

    def __call__(self, *arguments: str, fails: str = "nothing") -> "subprocess.CompletedProcess[str]":
        self._calls.write_text("")
        own = {"PYTHON": str(self._python), "FAKE_CALLS": str(self._calls), "FAKE_FAILS": fails}
        return subprocess.run(
            [str(SCRIPT), *arguments], env=os.environ | own, capture_output=True, text=True, timeout=120
        )

    def calls(self) -> list[list[str]]:
        return [line.split(" ") for line in self._calls.read_text().splitlines()]


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


def test_finished_pieces_are_skipped_and_failed_ones_tried_again(run: Runner) -> None:
    first = run(str(run.out), fails="tail")
    assert first.returncode == 1
    assert "failed: tail-7b-int4-to-4096" in first.stderr
    pieces = len(run.calls())
    tails = sum(call[1] == "benchmarks.gpu.tail" for call in run.calls())
    assert {call[1].removeprefix("benchmarks.gpu.") for call in run.calls()} == {
        "probe", "shapes", "tail", "overhead", "requantize", "cycle", "rollout", "train_small",
    }  # fmt: skip
    second = run(str(run.out))
    assert second.returncode == 0, second.stderr
    assert len(run.calls()) == tails
    assert second.stdout.count("done before") == pieces - tails
    assert run(str(run.out)).returncode == 0
    assert not run.calls()


def test_a_piece_that_takes_too_long_is_stopped_and_leaves_nothing(run: Runner, monkeypatch) -> None:
    monkeypatch.setenv("PIECE_SECONDS", "1")
    finished = run(str(run.out), "probe", "shapes", fails="probe")
    assert finished.returncode == 1
    assert "probe: failed" in finished.stderr
    assert {file.name for file in run.out.iterdir() if file.is_file()} == {
        "probe.log", "shapes.json", "shapes.md", "shapes.log",
    }  # fmt: skip


def test_every_piece_has_its_own_files(run: Runner) -> None:
    assert run(str(run.out)).returncode == 0
    files = [call[call.index("--json") + 1] for call in run.calls()]
    assert len(files) == len(set(files))
    assert all(Path(file).is_file() for file in files)


def test_patterns_pick_pieces_and_quick_leaves_imposed_acceptance_out(run: Runner) -> None:
    assert run(str(run.out), "requantize-*", "probe").returncode == 0
    assert {call[1] for call in run.calls()} == {"benchmarks.gpu.requantize", "benchmarks.gpu.probe"}
    listed = run("--list", str(run.out)).stdout.split()
    quick = run("--quick", "--list", str(run.out)).stdout.split()
    assert not run.calls()
    assert set(quick) < set(listed)
    assert all("rollout" in name for name in set(listed) - set(quick))


def test_a_package_that_is_not_installed_ends_with_one_line(run: Runner, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_PLUGIN", "1")
    finished = run(str(run.out))
    assert finished.returncode == 2
    assert finished.stderr.count("\n") == 1
    assert not run.calls()


@pytest.mark.parametrize("arguments", [[], ["--fast", "out"]])
def test_bad_arguments_end_with_one_line(run: Runner, arguments: list[str]) -> None:
    finished = run(*arguments)
    assert finished.returncode == 2
    assert finished.stderr.count("\n") == 1


def test_arguments_are_ones_that_the_benchmarks_take(run: Runner) -> None:
    """`--quick` changes what is measured, not what is parsed."""
    import importlib
    from unittest.mock import patch

    from benchmarks.record import Parser

    class Parsed(Exception):  # noqa: N818 - stops the benchmark once its arguments are read
        pass

    assert run(str(run.out)).returncode == 0
    for call in run.calls():
        module = importlib.import_module(call[1])
        parse = Parser.parse_args

        def parse_only(self, arguments, parse=parse):
            parse(self, arguments)
            raise Parsed

        with patch.object(Parser, "parse_args", parse_only), pytest.raises(Parsed):
            module.main(call[2:])
