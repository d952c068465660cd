"""The command line as a whole: whatever the arguments, one line and exit code 2, or an answer.

Commands and their options are those of the typer app, so that a new command is called without being named here.
"""

import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

import nemo_rl_efficientrollout.cli as cli
import nemo_rl_efficientrollout.gate.detector as detector
from nemo_rl_efficientrollout.compare import wandb_online
from nemo_rl_efficientrollout.doctor import Finding
from nemo_rl_efficientrollout.errors import LONGEST_LINE, UserError
from tests.proof import Proof
from tests.sweeps import measured, truth, write

from .documents import CONSTANTS, GRID, MODEL, NEMO_RL, PROBLEMS, REPORT, STEPS, as_csv, as_lines, calibration
from .oracle import Tally, counted
from .wild import choice, file_of, profile, words

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
DOCUMENTS: dict[str, tuple[Any, Any]] = {
    "calibration.json": (calibration(), json.dumps),
    "constants.json": (CONSTANTS, json.dumps),
    "grid.csv": (GRID, as_csv),
    "recipe.yaml": (NEMO_RL, json.dumps),
    "model/config.json": (MODEL, json.dumps),
    "run/report.json": (REPORT, json.dumps),
    "run/steps.jsonl": (STEPS, as_lines),
    "problems.jsonl": (PROBLEMS, as_lines),
}
PLACES = [
    *DOCUMENTS,
    "sweep.csv",
    "model",
    "run",
    "other",
    ".",
    "new.json",
    "no/such/folder/x",
    "x" * 300,
    "other/latest",
]
TEXTS = [
    "a=b",
    "gate.mode=off",
    "draft_length.max=3",
    "gate.seed=1e999",
    "grpo",
    "eval",
    "0,3,7",
    "int8",
    "a/b/c",
    "cpu",
]


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below a group, with the words that call it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = list(commands(typer.main.get_command(cli.app)))


def values_of(parameter: Any) -> st.SearchStrategy[str]:
    """What an option or argument is given: more often than not, something of its kind."""
    described = getattr(parameter, "type_descriptor", None) or parameter.type  # typer's own, or click's
    kind = str(getattr(described, "annotation", described)).lower()
    numbers = st.one_of(st.integers(-2, 40), st.integers(), st.floats()).map(str)
    if "int" in kind or "float" in kind:
        return st.one_of(numbers, numbers, words)
    inside = st.one_of(choice(PLACES), choice(PLACES), words.filter(_stays))
    return inside if "path" in kind else st.one_of(choice(TEXTS), inside)


def _stays(word: str) -> bool:
    """A user may name any place to write to; this one stays in the folder."""
    return not word.startswith(("/", "~")) and ".." not in word


@st.composite
def calls(draw: st.DrawFn) -> list[str]:
    """The arguments of one call."""
    path, command = COMMANDS[draw(st.integers(0, len(COMMANDS) - 1))]
    arguments = []
    for parameter in command.params:
        wanted = draw(st.integers(0, 9)) < (9 if parameter.required else 3)
        for _ in range(draw(st.integers(1, 2)) if wanted and parameter.multiple else wanted):
            if parameter.param_type_name == "argument":
                arguments.append(draw(values_of(parameter)))
            elif getattr(parameter, "is_flag", False):
                arguments.append(draw(st.sampled_from((*parameter.opts, *parameter.secondary_opts))))
            else:
                arguments += [draw(st.sampled_from(parameter.opts)), draw(values_of(parameter))]
    if draw(st.integers(0, 9)) == 0:
        arguments.insert(draw(st.integers(0, len(arguments))), draw(words))
    return [*(path if draw(st.integers(0, 19)) else path[:-1]), *filter(_stays, arguments)]


class Screen:
    """Standard streams as a terminal in UTF-8 has them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, given_input: bytes) -> None:
        self.out, self.err = io.BytesIO(), io.BytesIO()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given_input), encoding="utf-8"))
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(self.out, encoding="utf-8"))
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(self.err, encoding="utf-8", errors="backslashreplace"))

    def text(self) -> str:
        """What was written on stderr."""
        sys.stdout.flush()
        sys.stderr.flush()
        return self.err.getvalue().decode()


def call(arguments: list[str], given_input: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call of the command. Raises UserError for a refusal, as the readers do, and AssertionError for a bad one."""
    monkeypatch.setattr(sys, "argv", ["efficientrollout", *arguments])
    screen = Screen(monkeypatch, given_input)
    try:
        cli.main()
    except SystemExit as end:
        code, said = end.code, screen.text()
    assert "Traceback" not in said, said
    if code == 2:
        lines = said.splitlines()
        if not lines:  # a group without a command was answered with its help
            raise UserError("help")
        assert len(lines) == 1, said
        assert lines[0].startswith("efficientrollout: ")
        assert len(lines[0]) < 2 * LONGEST_LINE
        raise UserError(lines[0])
    assert code in (None, 0, 1), code


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that commands read; no engine, no measurement, no network, no process."""

    def none_here(*arguments: Any, **named: Any) -> Any:
        raise UserError("nothing is started in this test")

    package = cli.__name__.rpartition(".")[0]
    for name in ("calibrate", "seeding"):  # vLLM: half a minute
        stub: Any = ModuleType(name)
        stub.open_engine = stub.calibrate = stub.hardware = none_here
        monkeypatch.setitem(sys.modules, f"{package}.engine.{name}", stub)
    monkeypatch.setattr(detector, "detect", none_here)
    monkeypatch.setattr(wandb_online, "read", none_here)
    found = [Finding("memory", "fail", "too little", "get more")]
    monkeypatch.setattr(sys.modules[f"{package}.cli.doctor"], "examine", lambda *rest: found)
    folder = tmp_path / "inside"
    for name in ("model", "run", "other"):
        (folder / name).mkdir(parents=True)
    (folder / "other" / "steps.jsonl").write_text(as_lines(STEPS))
    write(folder / "sweep.csv", measured(truth(), mislabelled=0)[::20])
    monkeypatch.chdir(folder)
    return folder


def restore(folder: Path, spoiled: dict[str, bytes]) -> None:
    """All documents right, but for those that are given."""
    for name, (document, as_text) in DOCUMENTS.items():
        (folder / name).write_bytes(spoiled.get(name) or as_text(document).encode())


SPOILED = st.sampled_from(sorted(DOCUMENTS)).flatmap(
    lambda name: file_of(*DOCUMENTS[name]).map(lambda data: {name: data})
)


def test_calls(proof: Proof, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: dict[tuple[str, ...], int] = {}
    with counted("command line", place, proof) as tally:

        @profile(proof, full=6_000, quick=120)
        @given(
            calls(), st.one_of(st.just({}), SPOILED), st.one_of(st.just(as_csv(GRID).encode()), st.binary(max_size=40))
        )
        def run(arguments: list[str], spoiled: dict[str, bytes], given_input: bytes) -> None:
            restore(place, spoiled)
            tally.judge(lambda: call(arguments, given_input, monkeypatch))
            for path, _ in COMMANDS:
                called[path] = called.get(path, 0) + (tuple(arguments[: len(path)]) == path)

        run()
    assert all(called.values()), called


def test_right_calls_are_answered(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So what is refused above is refused for what is wrong with it."""
    restore(place, {})
    right = [
        "version",
        "kwargs some/model --set gate.mode=off",
        "report run",
        "compare run other --skip 0 --out out.html",
        "drafter size --model model --json",
        "gate decide --calibration calibration.json --draft-lengths 0,3",
        "gate fit --sweep sweep.csv --out new.json --quiet",
        "gate validate --calibration calibration.json --sweep sweep.csv --json",
        "doctor --quiet",
    ]
    tally = Tally("right calls", place)
    for line in right:
        assert tally.judge(lambda line=line: call(line.split(), as_csv(GRID).encode(), monkeypatch)), line
    assert os.path.isfile("out.html")
    assert len(COMMANDS) >= len(right)


def test_commands_are_found() -> None:
    """The commands above are read from the app: it has not become empty."""
    assert {("gate", "fit"), ("report",), ("run",)} <= {path for path, _ in COMMANDS}
