"""Every judgement that the fuzzing rests on turns red on a reader that is broken on purpose."""

import json
import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from nemo_rl_efficientrollout.errors import UserError, one_line
from tests.proof import Proof

from .confinement import Escaped, confined
from .documents import CONSTANTS
from .oracle import SECONDS, Tally, check_message, counted
from .wild import file_of, profile


@pytest.fixture
def tally(tmp_path: Path) -> Tally:
    return Tally("broken", tmp_path)


class TalkativeError(UserError):
    """Says everything it was given, as it was given it."""

    def __str__(self) -> str:
        return str(self.args[0])


def refuse(text: str) -> Callable[[], None]:
    def read() -> None:
        raise TalkativeError(text)

    return read


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError(), ValueError("x"), MemoryError(), OSError(2, "x")])
def test_another_exception_is_red(tally: Tally, error: Exception) -> None:
    def read() -> None:
        raise error

    with pytest.raises(type(error)):
        tally.judge(read)
    assert tally.tracebacks == 1


@pytest.mark.parametrize("text", ["", " ", "two\nlines", "\x1b[31m", "half \ud800", "x" * 1_000_000])
def test_a_message_that_is_no_short_line_is_red(tally: Tally, text: str) -> None:
    with pytest.raises(AssertionError):
        tally.judge(refuse(text))
    if text.strip():
        check_message(one_line(text))


def test_time_is_red(tally: Tally, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((0.0, SECONDS + 0.1))
    monkeypatch.setattr(time, "process_time", lambda: next(clock))
    with pytest.raises(AssertionError, match="took"):
        tally.judge(lambda: None)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("x"),
        lambda path: os.close(os.open(path, os.O_CREAT | os.O_RDWR)),
        lambda path: path.mkdir(),
        lambda path: path.with_name("inside").joinpath("there").rename(path),
        lambda path: path.symlink_to("x"),
        lambda path: path.with_name("inside").joinpath("link", "new").write_text("x"),
        lambda path: path.with_name("inside").joinpath("..", "outside").write_text("x"),
        lambda path: path.with_name("kept").unlink(),
        lambda path: subprocess.run([sys.executable, "-c", ""], check=False),
        lambda path: os.system("true"),
        lambda path: socket.create_connection(("127.0.0.1", 9)),
        lambda path: socket.socket().bind(("127.0.0.1", 0)),
        lambda path: pickle.loads(pickle.dumps(UserError)),
    ],
)
def test_a_write_outside_is_red_and_not_done(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "there").touch()
    (inside / "link").symlink_to(tmp_path)
    (tmp_path / "kept").touch()
    before = sorted(tmp_path.iterdir())
    tally = Tally("broken", inside)
    with pytest.raises(AssertionError):
        tally.judge(lambda: write(tmp_path / "outside"))
    assert tally.outside == 1
    assert sorted(tmp_path.iterdir()) == before


def test_writing_inside_and_reading_anywhere_is_green(tmp_path: Path) -> None:
    def read() -> None:
        Path(__file__).read_bytes()
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "x").write_text("x")

    assert Tally("right", tmp_path).judge(read)


def test_nothing_is_watched_outside_the_block(tmp_path: Path) -> None:
    with confined(tmp_path / "elsewhere"), pytest.raises(Escaped):
        (tmp_path / "x").touch()
    (tmp_path / "x").touch()


class Quiet(Proof):
    """Notes nothing: what is broken on purpose is no proof."""

    def __init__(self) -> None:
        super().__init__(None)
        self.rows: list[dict[str, Any]] = []

    def row(self, table: str, **cells: Any) -> None:
        self.rows.append(cells)


def fuzz(read: Callable[[Path], Any], folder: Path) -> dict[str, Any]:
    """What is noted of a reader of model constants."""
    proof, file = Quiet(), folder / "constants.json"
    with pytest.raises((Exception, AssertionError)) as caught, counted("broken", folder, proof) as tally:  # noqa: PT012

        @profile(proof, full=0, quick=300)
        @given(file_of(CONSTANTS))
        def run(data: bytes) -> None:
            file.write_bytes(data)
            tally.judge(lambda: read(file))

        run()
    return proof.rows[0] | {"said": str(caught.value)}


def test_a_reader_that_checks_nothing_is_found(tmp_path: Path) -> None:
    assert fuzz(lambda file: json.loads(file.read_text())["D"] + 1, tmp_path)["tracebacks"] > 0


def test_a_reader_that_follows_its_input_out_is_found(tmp_path: Path) -> None:
    def read(file: Path) -> None:
        (tmp_path.parent / "made").write_bytes(file.read_bytes())

    assert fuzz(read, tmp_path)["writes outside"] > 0
    assert not (tmp_path.parent / "made").exists()


def test_a_reader_that_refuses_all_or_nothing_is_found(tmp_path: Path) -> None:
    assert "accepted nothing" in fuzz(lambda file: refuse("no")(), tmp_path)["said"]
    assert "refused nothing" in fuzz(lambda file: None, tmp_path)["said"]
